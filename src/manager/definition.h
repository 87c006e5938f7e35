// What a VM is, as text and as JSON.
#pragma once

#include "manager/manager.h"

// With the name and version in it, checked; *text is to be freed. m gets what is known of it
// besides. ERR_INVALID with the key.
err_t definition_settle(struct managed *m, const json_t *given, const char *name, char **text,
                        struct error *e);
// The first disk is the image's, unless the definition says more of it already. A new object.
json_t *definition_with_image(const json_t *definition);
// What can be in one VM only goes: MAC addresses, addresses, ports of the host; and what two VMs
// cannot write to is refused. name: of the VM that it is.
err_t definition_for_clone(json_t *definition, const char *name, struct error *e);
