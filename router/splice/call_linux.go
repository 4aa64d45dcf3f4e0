package splice

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls here do not block: the descriptors do not. They are made past Go's
// scheduler, which takes a call of more than 20 µs for one that blocks and wakes
// a thread to go on elsewhere; moving 128 kB takes longer, and so may a
// connect(2); the thread finds nothing to do. The errors are of
// type unix.Errno; EINTR is not among them.

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

// closeNow frees the descriptor whatever it returns.
func closeNow(fd int32) { unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// shutdownNow ends our half of a connection.
func shutdownNow(fd int32) error {
	_, err := call(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
	return err
}

// spliceNow moves up to n bytes; one of the two descriptors is a pipe.
func spliceNow(from, to, n int) (int, error) {
	const flags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK
	return call6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), flags)
}

func pollNow(fd int, events []unix.EpollEvent) (int, error) {
	return call6(unix.SYS_EPOLL_PWAIT, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
}

// watchNow puts a socket into an epoll descriptor, edge-triggered.
func watchNow(epoll int, fd, seat, age int32) error {
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff, Fd: seat, Pad: age}
	_, err := call6(unix.SYS_EPOLL_CTL, uintptr(epoll), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(&e)), 0, 0)
	return err
}

// unwatchNow takes it out again. Closing the last descriptor of a socket does so
// too.
func unwatchNow(epoll int, fd int32) error {
	_, err := call6(unix.SYS_EPOLL_CTL, uintptr(epoll), unix.EPOLL_CTL_DEL, uintptr(fd), 0, 0, 0)
	return err
}

func setNow(fd int32, level, option, value int) error {
	v := int32(value)
	_, err := call6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&v)), unsafe.Sizeof(v), 0)
	return err
}

// acceptNow takes a connection from a listening socket's queue.
func acceptNow(fd int32) (int32, netip.AddrPort, error) {
	var a sockaddr
	size := uint32(unsafe.Sizeof(a))
	n, err := call6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&a)), uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if err != nil {
		return -1, netip.AddrPort{}, err
	}
	return int32(n), a.addrPort(), nil
}

// connectNow makes a socket and begins to connect it; the error is
// unix.EINPROGRESS when that takes longer.
func connectNow(to netip.AddrPort) (int32, error) {
	var a sockaddr
	size := a.set(to)
	n, err := call(unix.SYS_SOCKET, uintptr(a.family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	_, err = call(unix.SYS_CONNECT, uintptr(n), uintptr(unsafe.Pointer(&a)), size)
	return int32(n), err
}

// localOf is a socket's own address.
func localOf(fd int32) netip.AddrPort {
	var a sockaddr
	size := uint32(unsafe.Sizeof(a))
	if _, err := call(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&a)), uintptr(unsafe.Pointer(&size))); err != nil {
		return netip.AddrPort{}
	}
	return a.addrPort()
}

// sockaddr is the kernel's sockaddr_in or sockaddr_in6.
type sockaddr struct {
	family uint16
	port   [2]byte // network order
	rest   [24]byte
}

// Where addresses lie in sockaddr.rest.
const (
	at4, size4 = 0, 16
	at6, size6 = 4, 28
	atZone     = 20
)

// set returns how many bytes of it count.
func (a *sockaddr) set(to netip.AddrPort) (size uintptr) {
	binary.BigEndian.PutUint16(a.port[:], to.Port())
	if ip := to.Addr(); ip.Is4() {
		a.family = unix.AF_INET
		copy(a.rest[at4:], ip.AsSlice())
		return size4
	} else if zone := ip.Zone(); zone != "" {
		binary.NativeEndian.PutUint32(a.rest[atZone:], zoneIndex(zone))
	}
	a.family = unix.AF_INET6
	ip := to.Addr().As16()
	copy(a.rest[at6:], ip[:])
	return size6
}

// addrPort returns IPv4 addresses in their own form, also from a socket of both
// kinds; the zero value for what is neither kind.
func (a *sockaddr) addrPort() netip.AddrPort {
	port := binary.BigEndian.Uint16(a.port[:])
	switch a.family {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(a.rest[at4:])), port)
	case unix.AF_INET6:
		ip := netip.AddrFrom16([16]byte(a.rest[at6:])).Unmap()
		if zone := binary.NativeEndian.Uint32(a.rest[atZone:]); zone != 0 && ip.Is6() {
			ip = ip.WithZone(zoneName(zone))
		}
		return netip.AddrPortFrom(ip, port)
	default:
		return netip.AddrPort{}
	}
}

func zoneName(index uint32) string {
	if i, err := net.InterfaceByIndex(int(index)); err == nil {
		return i.Name
	}
	return strconv.FormatUint(uint64(index), 10)
}

func zoneIndex(name string) uint32 {
	if i, err := net.InterfaceByName(name); err == nil {
		return uint32(i.Index)
	}
	n, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}
