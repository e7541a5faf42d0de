package uml

import (
	"fmt"
	"os"
)

// holdLastPage makes the initramfs's length one that keeps the last page of
// the card's memory from ever being used, by 4 bytes of zeros where it has to.
//
// The kernel's csum_partial (arch/x86/lib/csum-partial_64.c), among others,
// reads the last bytes of a buffer as a whole word, up to 7 bytes behind its
// end, and counts on an exception handler where nothing is mapped there
// (load_unaligned_zeropad). User-Mode Linux compiles that, but has no such
// handler (segv in arch/um/kernel/trap.c, 7.3): behind the last page of its
// memory nothing is mapped, and a checksum over a buffer that ends there
// panics: "Segfault without recovery target" below skb_checksum. It was seen
// below __udp_gso_segment, which sums the datagrams of a train for WireGuard.
//
// The initramfs is what the kernel puts at the end of its memory, aligned to
// 64 bytes, and when it has been unpacked the whole pages of it become free
// (uml_load_file, free_reserved_area). Where its length is no multiple of the
// alignment it ends within the last page, which is then not a whole one and
// stays reserved. The kernel passes over zeros behind an archive.
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
	// Archives are multiples of 4. Not being one of 8 serves for every
	// alignment of 8 and more.
	if st.Size()%8 != 0 {
		return nil
	}
	if _, err := f.Write(make([]byte, 4)); err != nil {
		return fmt.Errorf("padding for the end of the card's memory: %w", err)
	}
	return f.Close()
}
