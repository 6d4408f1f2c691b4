/* Registers of the PCI Express capability (offsets in it) and port types. PCI Express Base 4.0 chapter 7.5.3. */
#ifndef HW_PCI_PCIE_H
#define HW_PCI_PCIE_H

enum {
    PCIE_FLAGS = 0x02,
    PCIE_DEVCAP = 0x04,
    PCIE_DEVCTL = 0x08,
    PCIE_DEVSTA = 0x0a,
    PCIE_LNKCAP = 0x0c,
    PCIE_LNKCTL = 0x10,
    PCIE_LNKSTA = 0x12,
    PCIE_SLTCAP = 0x14,
    PCIE_SLTCTL = 0x18,
    PCIE_SLTSTA = 0x1a,
    PCIE_RTCTL = 0x1c,
    PCIE_RTCAP = 0x1e,
    PCIE_RTSTA = 0x20,
    PCIE_DEVCAP2 = 0x24,
    PCIE_DEVCTL2 = 0x28,
    PCIE_LNKCAP2 = 0x2c,
    PCIE_LNKCTL2 = 0x30,
    PCIE_CAP_LEN = 0x3c,
};
enum {
    PCIE_TYPE_ENDPOINT = 0,
    PCIE_TYPE_ROOT_PORT = 4,
    PCIE_TYPE_UPSTREAM = 5,
    PCIE_TYPE_DOWNSTREAM = 6,
    PCIE_TYPE_PCI_BRIDGE = 7,
    PCIE_TYPE_RC_ENDPOINT = 9
};
enum {
    SLTCAP_ABP = 1,
    SLTCAP_PCP = 2,
    SLTCAP_AIP = 8,
    SLTCAP_PIP = 16,
    SLTCAP_HPS = 32,
    SLTCAP_HPC = 64,
    SLTCAP_EIP = 1 << 17
};
enum {
    SLTCTL_ABPE = 1,
    SLTCTL_PDCE = 8,
    SLTCTL_CCIE = 16,
    SLTCTL_HPIE = 32,
    SLTCTL_PIC = 0x300,
    SLTCTL_PIC_OFF = 0x300,
    SLTCTL_PCC = 0x400,
    SLTCTL_DLLSCE = 0x1000
};
enum { SLTSTA_ABP = 1, SLTSTA_PDC = 8, SLTSTA_CC = 16, SLTSTA_PDS = 64, SLTSTA_DLLSC = 256 };

#endif
