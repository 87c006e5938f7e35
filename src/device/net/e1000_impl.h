// Inside the 82540EM model. Register numbers are byte offsets into the memory BAR.
#pragma once

#include "base/bits.h"
#include "device/net/e1000.h"
#include "device/pci/pci.h"

enum {
    REG_CTRL = 0x0000,
    REG_STATUS = 0x0008,
    REG_EECD = 0x0010,
    REG_EERD = 0x0014,
    REG_MDIC = 0x0020,
    REG_VET = 0x0038,
    REG_ICR = 0x00c0,
    REG_ITR = 0x00c4,
    REG_ICS = 0x00c8,
    REG_IMS = 0x00d0,
    REG_IMC = 0x00d8,
    REG_RCTL = 0x0100,
    REG_TCTL = 0x0400,
    REG_PBA = 0x1000,
    REG_RDBAL = 0x2800,
    REG_RDBAH = 0x2804,
    REG_RDLEN = 0x2808,
    REG_RDH = 0x2810,
    REG_RDT = 0x2818,
    REG_TDBAL = 0x3800,
    REG_TDBAH = 0x3804,
    REG_TDLEN = 0x3808,
    REG_TDH = 0x3810,
    REG_TDT = 0x3818,
    REG_STATISTICS = 0x4000,
    REG_STATISTICS_END = 0x4128,
    REG_MPC = 0x4010,
    REG_GPRC = 0x4074,
    REG_GPTC = 0x4080,
    REG_GORCL = 0x4088,
    REG_GOTCL = 0x4090,
    REG_TPR = 0x40d0,
    REG_TPT = 0x40d4,
    REG_MTA = 0x5200,
    REG_RAL = 0x5400,
    REG_RAH = 0x5404,
    REG_RA_END = 0x5480,
    REG_VFTA = 0x5600,
    REG_END = 0x6000, // what is beyond is not kept

    CTRL_SLU = 1 << 6,
    CTRL_RST = 1 << 26,
    CTRL_VME = 1 << 30, // VLAN tags are taken out and put in
    CTRL_PHY_RST = 1u << 31,
    STATUS_LU = 1 << 1,
    RAH_AV = 1u << 31,

    ICR_TXDW = 1 << 0,
    ICR_TXQE = 1 << 1,
    ICR_LSC = 1 << 2,
    ICR_RXDMT0 = 1 << 4,
    ICR_RXT0 = 1 << 7,
    ICR_MDAC = 1 << 9,
    ICR_ALL = 0x1ffff,

    RCTL_EN = 1 << 1,
    RCTL_UPE = 1 << 3,
    RCTL_MPE = 1 << 4,
    RCTL_LPE = 1 << 5,
    RCTL_BAM = 1 << 15,
    RCTL_VFE = 1 << 18,
    RCTL_BSEX = 1 << 25,
    RCTL_SECRC = 1 << 26,
    TCTL_EN = 1 << 1,

    DESC_BYTES = 16,
    EEPROM_WORDS = 64,
    PHY_REGISTERS = 32,

    TIMER_THROTTLE = 0, // the next interrupt may be sent
    TIMER_TRANSMIT = 1, // a long ring goes on
    TIMERS = 2,
};

// What the last context descriptor said about the packets that follow.
struct e1000_offload {
    uint8_t ip_start, ip_at; // of the IP checksum
    uint16_t ip_end;
    uint8_t start, at; // of the TCP or UDP checksum
    uint16_t end;
    uint16_t mss;
    uint8_t header;  // bytes
    uint8_t command; // TUCMD
};

struct e1000 {
    struct pci_function pci;
    struct nic_config config;
    uint8_t packet[NET_PACKET_MAX + 1]; // being sent or received: scratch of one callback
    uint8_t part[NET_PACKET_MAX];
    uint8_t starved; // a packet found no buffer: the host waits for resume()
    uint8_t stalled; // a packet found no room: waits for go_on()
    uint8_t link;    // the cable is in
    uint8_t raised;  // the interrupt line
    uint8_t clock;   // of the EEPROM, as last written
    uint8_t pad[4];
    uint32_t taken; // frames that the guest already has of the packet that waits for buffers
    uint32_t registers[REG_END / 4];
    uint16_t phy[PHY_REGISTERS];
    uint16_t eeprom[EEPROM_WORDS];
    uint32_t io_address; // of the I/O BAR's window
    uint16_t shift;      // bits that the EEPROM has been sent, or is sending
    uint8_t shifted_in;  // how many
    uint8_t shift_out;   // how many are left
    ns_t quiet_until;    // no interrupt before
    struct e1000_offload offload;
};

static inline struct e1000 *e1000_of(struct device *dev)
{
    return (struct e1000 *)dev;
}

static inline uint32_t *e1000_reg(struct e1000 *n, unsigned offset)
{
    return &n->registers[offset / 4];
}

static inline bool e1000_has(const struct e1000 *n, unsigned offset, uint32_t bits)
{
    return n->registers[offset / 4] & bits;
}

// e1000.c
void e1000_cause(struct e1000 *n, uint32_t causes);
void e1000_count(struct e1000 *n, unsigned packets, unsigned total, unsigned octets, size_t len);

// e1000_rings.c
void e1000_transmit(struct e1000 *n);
bool e1000_receive(struct device *dev, uint8_t *packet, size_t len);
void e1000_buffers_added(struct e1000 *n);
