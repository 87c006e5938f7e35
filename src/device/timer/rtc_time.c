// Calendar arithmetic of the real-time clock. Years are counted from March, so that a leap day is
// the last one of its year; days are counted from 1 March of year 0.
#include "device/timer/rtc_time.h"

#define DAY_SECONDS 86400
#define ERA_DAYS 146097   // 400 years
#define EPOCH_DAYS 719468 // 1970-01-01

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

int64_t rtc_date_to_seconds(const struct rtc_date *date)
{
    int month = date->month < 1 ? 1 : date->month > 12 ? 12 : date->month;
    int64_t year = date->year - (month <= 2);
    int64_t era = floor_div(year, 400), of_era = year - era * 400;
    int from_march = (month + 9) % 12;
    int64_t days = era * ERA_DAYS + of_era * 365 + of_era / 4 - of_era / 100 +
                   (153 * from_march + 2) / 5 + date->day - 1 - EPOCH_DAYS;
    return days * DAY_SECONDS + date->hour * 3600 + date->minute * 60 + date->second;
}

void rtc_date_from_seconds(int64_t seconds, struct rtc_date *out)
{
    int64_t day = floor_div(seconds, DAY_SECONDS);
    int in_day = (int)(seconds - day * DAY_SECONDS);
    int64_t weekday = day + 4; // 1970-01-01 was a Thursday
    out->weekday = (uint8_t)(weekday - floor_div(weekday, 7) * 7 + 1);
    day += EPOCH_DAYS;
    int64_t era = floor_div(day, ERA_DAYS);
    int of_era = (int)(day - era * ERA_DAYS);
    int year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int of_year = of_era - (365 * year + year / 4 - year / 100);
    int from_march = (5 * of_year + 2) / 153;
    out->day = (uint8_t)(of_year - (153 * from_march + 2) / 5 + 1);
    out->month = (uint8_t)(from_march < 10 ? from_march + 3 : from_march - 9);
    out->year = (int32_t)(era * 400 + year + (out->month <= 2));
    out->hour = (uint8_t)(in_day / 3600);
    out->minute = (uint8_t)(in_day / 60 % 60);
    out->second = (uint8_t)(in_day % 60);
}
