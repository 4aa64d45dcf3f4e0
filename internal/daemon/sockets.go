package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"go.uber.org/zap"
)

// Sockets are a process's listening sockets. They are opened here, or come from
// somewhere else: from systemd (socket activation), or from the process that this
// one replaces. Where a socket comes from, it never stops listening, and no
// client is refused.
type Sockets struct {
	log     *zap.Logger
	elders  *Elders
	ready   *os.File       // where the process before waits for our word; nil without one
	signals chan os.Signal // for Process

	mu      sync.Mutex
	given   []given
	open    []*socket
	retired chan struct{} // closed when the sockets are another process's
}

// given is a socket that came from somewhere else and that no listener has
// claimed yet.
type given struct {
	name, address string // as the process before had it configured; "" when systemd gave it
	ln            *net.TCPListener
}

// socket is an open socket that can be given up without an error to whoever
// accepts from it.
type socket struct {
	*net.TCPListener
	name, address string
	retired       <-chan struct{}
	once          sync.Once
	closed        chan struct{}
}

// handoverVariable is the environment variable by which a process tells its
// successor what it hands over. It holds a handover in JSON.
const handoverVariable = "SWITCHYARD_HANDOVER"

// handover is what a process tells its successor. The descriptors begin at 3:
// the readiness pipe, then the sockets.
type handover struct {
	Sockets []handedSocket `json:"sockets"`
	Elders  []Elder        `json:"elders"`
}

type handedSocket struct {
	Name    string `json:"name"`
	Address string `json:"address"`
}

// firstDescriptor is where inherited descriptors begin, with systemd and with us
// (exec.Cmd.ExtraFiles).
const firstDescriptor = 3

// Inherit takes over the sockets that this process was started with, if any. It
// is called once, early, and takes what it read out of the environment. From here
// on the signals that a Process obeys are kept for it: none is lost, or ends the
// daemon, while it starts.
func Inherit(log *zap.Logger) (*Sockets, error) {
	if log == nil {
		log = zap.NewNop()
	}
	s := &Sockets{log: log, elders: &Elders{log: log}, retired: make(chan struct{}), signals: make(chan os.Signal, 4)}
	signal.Notify(s.signals, syscall.SIGHUP, syscall.SIGUSR2)
	text, handed := os.LookupEnv(handoverVariable)
	pid, fds, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{handoverVariable, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, err
		}
	}
	if handed {
		return s, s.inheritOurs(text)
	}
	if pid == strconv.Itoa(os.Getpid()) {
		return s, s.inheritSystemd(fds, names)
	}
	return s, nil
}

// inheritOurs takes over from the process that this one replaces.
func (s *Sockets) inheritOurs(text string) error {
	var h handover
	if err := json.Unmarshal([]byte(text), &h); err != nil {
		return fmt.Errorf("take over: %s: %w", handoverVariable, err)
	}
	syscall.CloseOnExec(firstDescriptor)
	s.ready = os.NewFile(firstDescriptor, "readiness")
	for i, h := range h.Sockets {
		ln, err := inherited(firstDescriptor+1+i, h.Name)
		if err != nil {
			return fmt.Errorf("take over %s on %s: %w", h.Name, h.Address, err)
		}
		s.given = append(s.given, given{h.Name, h.Address, ln})
	}
	s.elders.add(h.Elders...)
	return nil
}

// inheritSystemd takes over from systemd (sd_listen_fds(3)).
func (s *Sockets) inheritSystemd(count, names string) error {
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 {
		return fmt.Errorf("LISTEN_FDS %q is not a number", count)
	}
	var called []string
	if names != "" {
		called = strings.Split(names, ":")
	}
	for i := range n {
		name := "systemd socket " + strconv.Itoa(i)
		if i < len(called) {
			name = called[i]
		}
		ln, err := inherited(firstDescriptor+i, name)
		if err != nil {
			return fmt.Errorf("socket %q from systemd: %w", name, err)
		}
		s.given = append(s.given, given{ln: ln})
	}
	return nil
}

// inherited makes a listener of a descriptor, which it closes.
func inherited(fd int, name string) (*net.TCPListener, error) {
	syscall.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), name)
	if f == nil {
		return nil, fmt.Errorf("descriptor %d is not open", fd)
	}
	defer f.Close()
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		ln.Close()
		return nil, errors.New("it is not a TCP socket")
	}
	return tcp, nil
}

// Listen is the function of that name, except that a socket which this process
// was given for the address is used. Listeners that come from the process before
// are known by name and address as configured, those from systemd by the address
// that they listen on.
func (s *Sockets) Listen(name, address string) (Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ln := s.claim(name, address)
	if ln == nil {
		opened, err := Listen(name, address)
		if err != nil {
			return Listener{}, err
		}
		ln = opened.Listener.(*net.TCPListener)
	}
	one := &socket{TCPListener: ln, name: name, address: address, retired: s.retired, closed: make(chan struct{})}
	s.open = append(s.open, one)
	return Listener{Name: name, Listener: one}, nil
}

func (s *Sockets) claim(name, address string) *net.TCPListener {
	for i, g := range s.given {
		if g.name == name && g.address == address || g.name == "" && sameAddress(g.ln.Addr(), address) {
			s.given = append(s.given[:i], s.given[i+1:]...)
			return g.ln
		}
	}
	return nil
}

// sameAddress reports whether a socket listens on an address as it is written in
// a configuration.
func sameAddress(socket net.Addr, configured string) bool {
	want, err := net.ResolveTCPAddr("tcp", configured)
	if err != nil || want.Port == 0 {
		return false
	}
	have := socket.(*net.TCPAddr)
	if have.Port != want.Port {
		return false
	}
	a, b := unspecified(have.IP), unspecified(want.IP)
	return a.Unmap() == b.Unmap()
}

// unspecified makes one address of all that stand for every address, written or
// left out.
func unspecified(ip net.IP) netip.Addr {
	a, ok := netip.AddrFromSlice(ip)
	if !ok || a.Unmap().IsUnspecified() {
		return netip.IPv6Unspecified()
	}
	return a
}

// Elders are the processes before this one that still have sessions.
func (s *Sockets) Elders() *Elders { return s.elders }

// Serving says that all listeners accept connections: the process before, which
// then stops accepting, and systemd are told, and sockets that nothing claimed
// are closed.
func (s *Sockets) Serving() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.given {
		s.log.Warn("a socket that was handed over is no listener of the configuration: it is closed", zap.Stringer("address", g.ln.Addr()))
		g.ln.Close()
	}
	s.given = nil
	if err := notify(fmt.Sprintf("READY=1\nMAINPID=%d", os.Getpid())); err != nil {
		s.log.Warn("cannot tell systemd that the daemon is ready", zap.Error(err))
	}
	if s.ready == nil {
		return nil
	}
	defer s.ready.Close()
	if _, err := s.ready.WriteString(readyWord); err != nil {
		return fmt.Errorf("tell the process before that this one is ready: %w", err)
	}
	return nil
}

// readyWord is what a successor says on the readiness pipe.
const readyWord = "ready\n"

// Close closes what was given and not claimed. Listeners are closed by those who
// serve them.
func (s *Sockets) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.given {
		g.ln.Close()
	}
	s.given = nil
}

// retire gives the sockets up. Whoever accepts from them waits from now on, as
// if no client came, until it closes them.
func (s *Sockets) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.retired)
	for _, one := range s.open {
		one.TCPListener.Close()
	}
}

// Accept implements net.Listener.
func (l *socket) Accept() (net.Conn, error) {
	conn, err := l.TCPListener.Accept()
	if err == nil {
		return conn, nil
	}
	select {
	case <-l.retired:
		<-l.closed
		return nil, net.ErrClosed
	default:
		return nil, err
	}
}

// Close implements net.Listener.
func (l *socket) Close() error {
	err := l.TCPListener.Close()
	l.once.Do(func() { close(l.closed) })
	select {
	case <-l.retired:
		return nil
	default:
		return err
	}
}

// notify tells systemd something (sd_notify(3)); without systemd it does
// nothing.
func notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}
