package splice

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls here do not block: the descriptors do not. They are made past Go's
// scheduler, which takes a call of more than 20 µs for one that blocks and wakes
// a thread to go on elsewhere; moving 128 kB takes longer, and the thread finds
// nothing to do. The errors are of type unix.Errno; EINTR is not among them.

//go:uintptrescapes
func call(trap, a, b, c uintptr) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(trap, a, b, c)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

//go:uintptrescapes
func call6(trap, a, b, c, d, e, f uintptr) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(trap, a, b, c, d, e, f)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

func readNow(fd int32, p []byte) (int, error) {
	return call(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
}

func writeNow(fd int32, p []byte) (int, error) {
	return call(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
}

// spliceNow moves up to n bytes; one of the two descriptors is a pipe.
func spliceNow(from, to, n int) (int, error) {
	const flags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK
	return call6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), flags)
}

func pollNow(fd int, events []unix.EpollEvent) (int, error) {
	return call6(unix.SYS_EPOLL_PWAIT, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
}
