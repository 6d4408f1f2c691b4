/* The virtio block device as VIRTIO 1.2, 5.2 lays it down: feature bits and configuration space. Private to hw/virtio:
 * the device of our own (virtio_blk.c) and the one another program serves (vhost_user_blk.c). */
#ifndef HW_VIRTIO_VIRTIO_BLK_H
#define HW_VIRTIO_VIRTIO_BLK_H

enum { /* VIRTIO_BLK_F_ */
       F_SIZE_MAX = 1,
       F_SEG_MAX = 2,
       F_GEOMETRY = 4,
       F_RO = 5,
       F_BLK_SIZE = 6,
       F_FLUSH = 9,
       F_TOPOLOGY = 10,
       F_CONFIG_WCE = 11,
       F_MQ = 12,
       F_DISCARD = 13,
       F_WRITE_ZEROES = 14
};
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
enum { HDR_SIZE = 16 };
enum { /* struct virtio_blk_config */
       CFG_CAPACITY = 0,
       CFG_SEG_MAX = 12,
       CFG_CYLINDERS = 16,
       CFG_HEADS = 18,
       CFG_SECTORS = 19,
       CFG_BLK_SIZE = 20,
       CFG_PHYS_EXP = 24,
       CFG_MIN_IO = 26,
       CFG_OPT_IO = 28,
       CFG_WRITEBACK = 32,
       CFG_NUM_QUEUES = 34,
       CFG_MAX_DISCARD = 36,
       CFG_MAX_DISCARD_SEG = 40,
       CFG_DISCARD_ALIGN = 44,
       CFG_MAX_WZ = 48,
       CFG_MAX_WZ_SEG = 52,
       CFG_WZ_UNMAP = 56,
       CFG_SIZE = 60,
};

#endif
