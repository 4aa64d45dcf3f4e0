package splice

import (
	"os"

	"golang.org/x/sys/unix"
)

// minPipe is the smallest pipe worth having: less costs as much as copying.
// Behind a limit for each user (pipe-user-pages-soft: 64 MB) the kernel makes
// them as small as 8 kB.
const minPipe = 256 << 10

// pipe is where the kernel keeps bytes between two sockets.
type pipe struct {
	r, w int
	n    int // bytes in it
}

// fill moves what a socket has into the pipe. n is zero at its end.
func (p *pipe) fill(fd int32) (n int, err error) {
	n, err = spliceNow(int(fd), p.w, pipeSize)
	if n > 0 {
		p.n = n
	}
	return n, err
}

// drain moves what is in the pipe to a socket. unix.EAGAIN: not all of it.
func (p *pipe) drain(fd int32) error {
	for p.n > 0 {
		n, err := spliceNow(p.r, int(fd), p.n)
		if err == unix.EAGAIN {
			return err
		}
		if err != nil {
			return os.NewSyscallError("splice", err)
		}
		if n == 0 {
			return unix.EPIPE
		}
		p.n -= n
	}
	return nil
}

func (p *pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// pipes are a worker's. The zero value has none.
type pipes struct {
	limit int  // how many there may be
	open  int  // how many there are
	used  int  // the most that were in use since the last sweep
	short bool // there was no more to be had; until the next sweep
	free  []*pipe
}

// get returns an empty pipe, nil when there is none to be had.
func (ps *pipes) get() *pipe {
	var p *pipe
	if n := len(ps.free); n > 0 {
		p, ps.free = ps.free[n-1], ps.free[:n-1]
	} else {
		if ps.open >= ps.limit || ps.short {
			return nil
		}
		if p = newPipe(); p == nil {
			ps.short = true
			return nil
		}
		ps.open++
	}
	ps.used = max(ps.used, ps.open-len(ps.free))
	return p
}

// put takes a pipe back. One that holds bytes is closed.
func (ps *pipes) put(p *pipe) {
	if p.n > 0 {
		p.close()
		ps.open--
		return
	}
	ps.free = append(ps.free, p)
}

// sweep closes the pipes that were not used since the last time.
func (ps *pipes) sweep() {
	ps.trim(ps.used)
	ps.used, ps.short = ps.open-len(ps.free), false
}

// trim closes free pipes until no more than n are open, or none is free.
func (ps *pipes) trim(n int) {
	for ps.open > n && len(ps.free) > 0 {
		last := len(ps.free) - 1
		ps.free[last].close()
		ps.free[last] = nil
		ps.free = ps.free[:last]
		ps.open--
	}
}

func newPipe() *pipe {
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC) != nil {
		return nil
	}
	p := &pipe{r: fds[0], w: fds[1]}
	unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, pipeSize)
	if size, err := unix.FcntlInt(uintptr(p.w), unix.F_GETPIPE_SZ, 0); err != nil || size < minPipe {
		p.close()
		return nil
	}
	return p
}
