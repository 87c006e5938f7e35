// How a storage model gets from the block back end's threads into itself.
#pragma once

#include "block/block.h"
#include "device/device.h"

// Runs fn(dev, argument) with dev's lock held, on the caller's thread, before it returns. The
// machine supplies it; back ends' threads call it. NULL (tests): fn is called directly.
typedef void (*storage_enter_fn)(struct device *dev, void (*fn)(struct device *dev, void *argument),
                                 void *argument);

static inline void storage_enter(storage_enter_fn enter, struct device *dev,
                                 void (*fn)(struct device *dev, void *argument), void *argument)
{
    if (enter)
        enter(dev, fn, argument);
    else
        fn(dev, argument);
}
