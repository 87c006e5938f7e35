// Double precision: matrix product, n-body, vector update.
#include <math.h>
#include <string.h>

#include "bench.h"

static uint64_t bits(double d)
{
    uint64_t u;
    memcpy(&u, &d, sizeof u);
    return u;
}

static uint64_t matmul(void)
{
    enum { N = 160 };
    static double a[N][N], b[N][N], c[N][N];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            a[i][j] = i + j, b[i][j] = i - j, c[i][j] = 0;
    for (int round = 0; round < 8; round++)
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                double sum = 0;
                for (int k = 0; k < N; k++)
                    sum += a[i][k] * b[k][j];
                c[i][j] += sum;
            }
    return bits(c[17][31]);
}

struct body {
    double x[3], v[3], m;
};

static uint64_t nbody(void)
{
    static struct body b[5] = {{{0, 0, 0}, {0, 0, 0}, 39.47},
                               {{4.84, -1.16, -0.10}, {0.60, 2.81, -0.02}, 0.037},
                               {{8.34, 4.12, -0.40}, {-1.01, 1.82, 0.008}, 0.011},
                               {{12.89, -15.11, -0.22}, {1.08, 0.86, -0.01}, 0.0017},
                               {{15.37, -25.9, 0.17}, {0.97, 0.59, -0.03}, 0.002}};
    for (int step = 0; step < 150000; step++) {
        for (int i = 0; i < 5; i++)
            for (int j = i + 1; j < 5; j++) {
                double d[3], dist = 0;
                for (int k = 0; k < 3; k++)
                    d[k] = b[i].x[k] - b[j].x[k], dist += d[k] * d[k];
                double mag = 0.001 / (dist * sqrt(dist));
                for (int k = 0; k < 3; k++)
                    b[i].v[k] -= d[k] * b[j].m * mag, b[j].v[k] += d[k] * b[i].m * mag;
            }
        for (int i = 0; i < 5; i++)
            for (int k = 0; k < 3; k++)
                b[i].x[k] += 0.001 * b[i].v[k];
    }
    return bits(b[0].x[0]);
}

static uint64_t daxpy(void)
{
    enum { N = 4096 };
    static double x[N], y[N];
    for (int i = 0; i < N; i++)
        x[i] = i, y[i] = N - i;
    for (int round = 0; round < 8000; round++)
        for (int i = 0; i < N; i++)
            y[i] += 0.5 * x[i];
    return bits(y[77]);
}

const struct kernel float_kernels[] = {
    {"matmul", "fp", matmul}, {"nbody", "fp", nbody}, {"daxpy", "fp", daxpy}, {0}};
