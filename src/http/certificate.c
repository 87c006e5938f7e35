// A self-signed certificate for a host that has none: an ECDSA key on P-256, valid for two years.
// RFC 5280. What it proves is only that it is the same host as the last time: people compare its
// fingerprint, or give berthd a certificate of their own.
#include <arpa/inet.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <string.h>
#include <time.h>

#include "host/random.h"
#include "http/http.h"

#define VALID_SECONDS (2 * 365 * 24 * 3600)

static int name_it(gnutls_x509_crt_t crt, const char *host)
{
    unsigned char address[16];
    int family = strchr(host, ':') ? AF_INET6 : AF_INET;
    int result = gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, host,
                                               (unsigned)strlen(host));
    if (result)
        return result;
    if (inet_pton(family, host, address) == 1)
        return gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_IPADDRESS, address,
                                                    family == AF_INET ? 4 : 16, GNUTLS_FSAN_SET);
    return gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, host,
                                                (unsigned)strlen(host), GNUTLS_FSAN_SET);
}

static int fill(gnutls_x509_crt_t crt, gnutls_x509_privkey_t key, const char *host)
{
    unsigned char serial[16];
    time_t now = time(NULL);
    host_random(serial, sizeof serial);
    serial[0] = (serial[0] & 0x7f) | 1; // positive, and of this length
    int result = gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA,
                                              GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
    if (!result)
        result = gnutls_x509_crt_set_version(crt, 3);
    if (!result)
        result = gnutls_x509_crt_set_serial(crt, serial, sizeof serial);
    if (!result)
        result = name_it(crt, host);
    if (!result)
        result = gnutls_x509_crt_set_activation_time(crt, now - 3600);
    if (!result)
        result = gnutls_x509_crt_set_expiration_time(crt, now + VALID_SECONDS);
    if (!result)
        result = gnutls_x509_crt_set_basic_constraints(crt, 0, -1);
    if (!result)
        result = gnutls_x509_crt_set_key_usage(crt, GNUTLS_KEY_DIGITAL_SIGNATURE);
    if (!result)
        result = gnutls_x509_crt_set_key(crt, key);
    if (!result)
        result = gnutls_x509_crt_sign2(crt, crt, key, GNUTLS_DIG_SHA256, 0);
    return result;
}

static int export(gnutls_x509_crt_t crt, gnutls_x509_privkey_t key, char **certificate, char **pem)
{
    gnutls_datum_t text = {0}, secret = {0};
    int result = gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &text);
    if (!result)
        result = gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, &secret);
    *certificate = result ? NULL : strndup((const char *)text.data, text.size);
    *pem = result ? NULL : strndup((const char *)secret.data, secret.size);
    gnutls_free(text.data);
    gnutls_free(secret.data);
    return result;
}

err_t certificate_make(const char *host, char **certificate, char **key, struct error *e)
{
    gnutls_x509_crt_t crt = NULL;
    gnutls_x509_privkey_t private = NULL;
    *certificate = *key = NULL;
    int result = gnutls_x509_crt_init(&crt);
    if (!result)
        result = gnutls_x509_privkey_init(&private);
    if (!result)
        result = fill(crt, private, host);
    if (!result)
        result = export(crt, private, certificate, key);
    gnutls_x509_crt_deinit(crt);
    gnutls_x509_privkey_deinit(private);
    return result ? error_set(e, ERR_IO, "cannot make a certificate for %.60s: %s", host,
                              gnutls_strerror(result))
                  : OK;
}

err_t certificate_fingerprint(const char *certificate, char out[96], struct error *e)
{
    gnutls_x509_crt_t crt = NULL;
    unsigned char sha[32];
    size_t len = sizeof sha;
    const gnutls_datum_t pem = {(unsigned char *)certificate, (unsigned)strlen(certificate)};
    int result = gnutls_x509_crt_init(&crt);
    if (!result)
        result = gnutls_x509_crt_import(crt, &pem, GNUTLS_X509_FMT_PEM);
    if (!result)
        result = gnutls_x509_crt_get_fingerprint(crt, GNUTLS_DIG_SHA256, sha, &len);
    gnutls_x509_crt_deinit(crt);
    if (result)
        return error_set(e, ERR_INVALID, "not a certificate in PEM: %s", gnutls_strerror(result));
    for (size_t i = 0; i < len; i++)
        snprintf(out + i * 3, 4, "%02X%s", sha[i], i + 1 < len ? ":" : "");
    return OK;
}
