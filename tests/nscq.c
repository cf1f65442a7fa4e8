/* A library with the C interface of libnvidia-nscq 2.0, whose switches a test describes. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef int8_t rc_t;
typedef struct { uint8_t bytes[16]; } uuid_t;
typedef struct { char data[64]; } label_t;
typedef struct { uint32_t report_size; uint8_t report[0x2000]; } report_t;
typedef struct { uint8_t cert_chain[0x1400]; uint32_t cert_chain_size; } chain_t;
typedef struct session_st *session_t;
typedef struct { rc_t rc; session_t session; } opened_t;
typedef void (*fn_t)(void);

#define MOST 4
int8_t sw_count, sw_open, sw_arch = 2, sw_mode = 3;
int8_t sw_rc_create, sw_rc_observe, sw_rc_callback, sw_rc_input;
uint8_t sw_nonce[32];
report_t sw_reports[MOST];
chain_t sw_chains[MOST];
static int8_t here;

opened_t nscq_session_create(uint32_t flags) {
    opened_t opened = {sw_rc_create, (session_t)&here};
    if (flags != 1) opened.rc = -5;
    if (opened.rc == 0) sw_open++;
    return opened;
}

void nscq_session_destroy(session_t session) { if (session == (session_t)&here) sw_open--; }

rc_t nscq_session_set_input(session_t session, uint32_t flags, void *input, uint32_t size) {
    if (session != (session_t)&here || flags || size != sizeof sw_nonce) return -5;
    memcpy(sw_nonce, input, size);
    return sw_rc_input;
}

rc_t nscq_uuid_to_label(const uuid_t *uuid, label_t *label, uint32_t flags) {
    if (flags) return -5;
    snprintf(label->data, sizeof label->data, "SWX-%02X", uuid->bytes[15]);
    return 0;
}

rc_t nscq_session_path_observe(session_t session, const char *path, fn_t fn, void *data, uint32_t flags) {
    char tail[64];
    unsigned at;
    if (session != (session_t)&here || flags) return -5;
    if (sw_rc_observe) return sw_rc_observe;
    if (!strcmp(path, "/drv/nvswitch/{device}/uuid")) {
        for (int8_t i = 0; i < sw_count; i++) {
            uuid_t uuid = {{[15] = i}};
            ((void (*)(const uuid_t *, rc_t, const uuid_t *, void *))fn)(&uuid, sw_rc_callback, &uuid, data);
            memset(&uuid, 0xEE, sizeof uuid);
        }
        return 0;
    }
    if (!strcmp(path, "/{nvswitch}/id/arch")) {
        for (int8_t i = 0; i < sw_count; i++) {
            uuid_t uuid = {{[15] = i}};
            ((void (*)(const uuid_t *, rc_t, int8_t, void *))fn)(&uuid, 0, sw_arch, data);
        }
        return 0;
    }
    if (sscanf(path, "/SWX-%02X/config/%63s", &at, tail) != 2 || at >= (unsigned)sw_count) return -2;
    uuid_t uuid = {{[15] = (uint8_t)at}};
    if (!strcmp(tail, "pcie_mode"))
        ((void (*)(const uuid_t *, rc_t, int8_t, void *))fn)(&uuid, 0, sw_mode, data);
    else if (!strcmp(tail, "certificate"))
        ((void (*)(const uuid_t *, rc_t, chain_t, void *))fn)(&uuid, 0, sw_chains[at], data);
    else if (!strcmp(tail, "attestation_report"))
        ((void (*)(const uuid_t *, rc_t, report_t, void *))fn)(&uuid, 0, sw_reports[at], data);
    else
        return -1;
    return 0;
}
