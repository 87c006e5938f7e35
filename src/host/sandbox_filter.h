// Between the program that makes the system-call filters and what installs them.
#pragma once

// Stands for the process's own number in a filter that is made before there is a process.
#define FILTER_PID 0x7bad51deu
