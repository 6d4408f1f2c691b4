/* Registers of the Intel 8254x family, names as in the PCI/PCI-X Family of Gigabit Ethernet Controllers Software
 * Developer's Manual (317453), chapter 13. */
#ifndef HW_NET_E1000_REGS_H
#define HW_NET_E1000_REGS_H

enum {
    CTRL = 0x0000,
    STATUS = 0x0008,
    EECD = 0x0010,
    EERD = 0x0014,
    CTRL_EXT = 0x0018,
    FLA = 0x001c,
    MDIC = 0x0020,
    FCAL = 0x0028,
    FCAH = 0x002c,
    FCT = 0x0030,
    VET = 0x0038,
    ICR = 0x00c0,
    ITR = 0x00c4,
    ICS = 0x00c8,
    IMS = 0x00d0,
    IMC = 0x00d8,
    RCTL = 0x0100,
    FCTTV = 0x0170,
    TXCW = 0x0178,
    RXCW = 0x0180,
    TCTL = 0x0400,
    TIPG = 0x0410,
    AIFS = 0x0458,
    LEDCTL = 0x0e00,
    PBA = 0x1000,
    FCRTL = 0x2160,
    FCRTH = 0x2168,
    RDFH = 0x2410,
    RDFT = 0x2418,
    RDFHS = 0x2420,
    RDFTS = 0x2428,
    RDFPC = 0x2430,
    RDBAL = 0x2800,
    RDBAH = 0x2804,
    RDLEN = 0x2808,
    RDH = 0x2810,
    RDT = 0x2818,
    RDTR = 0x2820,
    RXDCTL = 0x2828,
    RADV = 0x282c,
    RSRPD = 0x2c00,
    TXDMAC = 0x3000,
    TDFH = 0x3410,
    TDFT = 0x3418,
    TDFHS = 0x3420,
    TDFTS = 0x3428,
    TDFPC = 0x3430,
    TDBAL = 0x3800,
    TDBAH = 0x3804,
    TDLEN = 0x3808,
    TDH = 0x3810,
    TDT = 0x3818,
    TIDV = 0x3820,
    TXDCTL = 0x3828,
    TADV = 0x382c,
    TSPMT = 0x3830,
    STATS = 0x4000,
    MPC = 0x4010,
    PRC64 = 0x405c,
    GPRC = 0x4074,
    BPRC = 0x4078,
    MPRC = 0x407c,
    GPTC = 0x4080,
    GORCL = 0x4088,
    GOTCL = 0x4090,
    RNBC = 0x40a0,
    ROC = 0x40ac,
    TORL = 0x40c0,
    TOTL = 0x40c8,
    TPR = 0x40d0,
    TPT = 0x40d4,
    PTC64 = 0x40d8,
    MPTC = 0x40f0,
    BPTC = 0x40f4,
    TSCTC = 0x40f8,
    STATS_END = 0x4100,
    RXCSUM = 0x5000,
    MTA = 0x5200,
    MTA_END = 0x5400,
    RA = 0x5400,
    RA_END = 0x5480,
    VFTA = 0x5600,
    VFTA_END = 0x5800,
    WUC = 0x5800,
    WUFC = 0x5808,
    WUS = 0x5810,
    MANC = 0x5820,
    IPAV = 0x5838,
    WUPL = 0x5900,
    FFLT = 0x5f00,
    FFVT_END = 0x5fff,
    REGS_END = 0x6000,
};
enum { CTRL_FD = 1 << 0, CTRL_SLU = 1 << 6, CTRL_RST = 1 << 26, CTRL_VME = 1 << 30 };
#define CTRL_PHY_RST (1u << 31)
enum { STATUS_FD = 1 << 0, STATUS_LU = 1 << 1, STATUS_SPEED_1000 = 1 << 7, STATUS_ASDV_1000 = 1 << 9 };
enum {
    EECD_SK = 1,
    EECD_CS = 2,
    EECD_DI = 4,
    EECD_DO = 8,
    EECD_FWE_DIS = 0x10,
    EECD_REQ = 0x40,
    EECD_GNT = 0x80,
    EECD_PRES = 0x100
};
enum { EERD_START = 1, EERD_DONE = 0x10 };
enum { MDIC_OP_WRITE = 1 << 26, MDIC_OP_READ = 1 << 27, MDIC_R = 1 << 28, MDIC_I = 1 << 29, MDIC_E = 1 << 30 };
enum {
    INT_TXDW = 1 << 0,
    INT_TXQE = 1 << 1,
    INT_LSC = 1 << 2,
    INT_RXDMT0 = 1 << 4,
    INT_RXO = 1 << 6,
    INT_RXT0 = 1 << 7,
    INT_MDAC = 1 << 9,
    INT_TXD_LOW = 1 << 15
};
enum {
    RCTL_EN = 1 << 1,
    RCTL_UPE = 1 << 3,
    RCTL_MPE = 1 << 4,
    RCTL_LPE = 1 << 5,
    RCTL_LBM = 3 << 6,
    RCTL_BAM = 1 << 15,
    RCTL_VFE = 1 << 18,
    RCTL_BSEX = 1 << 25,
    RCTL_SECRC = 1 << 26
};
enum { TCTL_EN = 1 << 1, TCTL_PSP = 1 << 3 };
enum { RXCSUM_IPOFL = 1 << 8, RXCSUM_TUOFL = 1 << 9 };
#define RAH_AV (1u << 31)
enum { RXD_DD = 1, RXD_EOP = 2, RXD_IXSM = 4, RXD_VP = 8, RXD_TCPCS = 0x20, RXD_IPCS = 0x40 };
enum { RXE_TCPE = 0x20, RXE_IPE = 0x40 };
enum { TXD_EOP = 1, TXD_IFCS = 2, TXD_IC = 4, TXD_TSE = 4, TXD_RS = 8, TXD_DEXT = 0x20, TXD_VLE = 0x40 };
enum { TXC_TCP = 1, TXC_IP = 2 };
enum { POPTS_IXSM = 1, POPTS_TXSM = 2 };
/* PHY (IEEE 802.3 clause 22 and Marvell Alaska). */
enum {
    PHY_BMCR = 0,
    PHY_BMSR = 1,
    PHY_ID1 = 2,
    PHY_ID2 = 3,
    PHY_ANAR = 4,
    PHY_ANLPAR = 5,
    PHY_ANER = 6,
    PHY_1000T_CTRL = 9,
    PHY_1000T_STATUS = 10,
    PHY_EXT_STATUS = 15,
    M88_CTRL = 16,
    M88_STATUS = 17,
    M88_INT_ENABLE = 18,
    M88_EXT_CTRL = 20,
    M88_PAGE = 29
};
enum { BMCR_RESTART_AN = 0x0200, BMCR_AN_ENABLE = 0x1000, BMCR_LOOPBACK = 0x4000, BMCR_RESET = 0x8000 };
enum { BMSR_LINK = 4, BMSR_AN_DONE = 0x20, M88_LINK = 0x0400 };

#endif
