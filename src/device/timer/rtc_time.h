// Calendar arithmetic of the real-time clock: proleptic Gregorian, seconds since 1970 UTC.
#pragma once

#include "base/types.h"

struct rtc_date {
    int32_t year;
    uint8_t month; // 1..12
    uint8_t day;   // 1..31
    uint8_t hour;
    uint8_t minute;
    uint8_t second;
    uint8_t weekday; // 1 is Sunday
};

// Any day, hour, minute and second is taken for what it adds up to; month is brought into 1..12.
int64_t rtc_date_to_seconds(const struct rtc_date *date);
void rtc_date_from_seconds(int64_t seconds, struct rtc_date *out);
