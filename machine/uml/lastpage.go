package uml

import (
	"fmt"
	"os"
)

// holdLastPage pads the initramfs with 4 bytes of zeros if its length would otherwise free the last
// page of the card's memory. The padding keeps that page reserved.
//
// The kernel's csum_partial (arch/x86/lib/csum-partial_64.c), among others, reads the last bytes of
// a buffer as a whole word, up to 7 bytes past its end, and relies on an exception handler if
// nothing is mapped there (load_unaligned_zeropad). User-Mode Linux compiles that code but has no
// such handler (segv in arch/um/kernel/trap.c, 7.3). Nothing is mapped after the last page of its
// memory, so a checksum over a buffer that ends there panics: "Segfault without recovery target"
// below skb_checksum. It was seen below __udp_gso_segment, which sums the datagrams of a train for
// WireGuard.
//
// The kernel puts the initramfs at the end of its memory, aligned to 64 bytes. After unpacking it
// frees the whole pages of the initramfs (uml_load_file, free_reserved_area). If the length is not
// a multiple of the alignment, the initramfs ends within the last page, which is then not a whole
// one and stays reserved. The kernel skips zeros after an archive.
func holdLastPage(initrd string) error {
	f, err := os.OpenFile(initrd, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	// Archive lengths are multiples of 4. One that is not a multiple of 8 is not a multiple of any
	// alignment of 8 or more.
	if st.Size()%8 != 0 {
		return nil
	}
	if _, err := f.Write(make([]byte, 4)); err != nil {
		return fmt.Errorf("padding for the end of the card's memory: %w", err)
	}
	return f.Close()
}
