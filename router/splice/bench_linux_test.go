package splice

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"switchyard/internal/wire"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The benchmarks run the joints in a process of their own, so that what they
// cost is not mixed with what the two ends cost.

const proxyEnv = "SPLICE_BENCH_PROXY"

func TestMain(m *testing.M) {
	if os.Getenv(proxyEnv) != "" {
		proxyMain()
		return
	}
	goleak.VerifyTestMain(m)
}

// proxyMain is that process: it joins every connection with one to the address
// in the environment, and answers "use" with its CPU time so far. Before it
// answers "gc" it collects its garbage.
func proxyMain() {
	words := strings.Fields(os.Getenv(proxyEnv)) // address, join or loop, raw or tls
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(ln.Addr())
	server, _, err := newTLS()
	if err != nil {
		panic(err)
	}
	var l *Loop
	if words[1] == "loop" {
		if l, err = NewLoop(LoopOptions{}); err != nil {
			panic(err)
		}
	}
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go proxyOne(l, nc, words[0], words[2] == "tls", server)
		}
	}()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if in.Text() == "gc" {
			debug.FreeOSMemory()
		}
		var use unix.Rusage
		unix.Getrusage(unix.RUSAGE_SELF, &use)
		fmt.Println(use.Utime.Nano() + use.Stime.Nano())
	}
}

func proxyOne(l *Loop, nc net.Conn, to string, secure bool, config *tls.Config) {
	back, err := net.Dial("tcp", to)
	if err != nil {
		panic(err)
	}
	front := nc
	if secure {
		w := wire.NewConn(nc)
		if err := w.ServerTLS(context.Background(), config); err != nil {
			panic(err)
		}
		if front, _, err = w.Detach(); err != nil {
			panic(err)
		}
	}
	if l != nil {
		l.Join(front, back, Options{}, func(Result, error) {})
		return
	}
	Join(context.Background(), front, back, Options{})
}

// proxy is the process, seen from outside.
type proxy struct {
	addr string
	in   io.WriteCloser
	out  *bufio.Scanner
	pid  int
	back net.Listener
	tls  bool
	loop bool
}

func startProxy(b *testing.B, how, layer string) *proxy {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), proxyEnv+"="+ln.Addr().String()+" "+how+" "+layer, "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	p := &proxy{in: in, out: bufio.NewScanner(out), pid: cmd.Process.Pid, back: ln, tls: layer == "tls", loop: how == "loop"}
	b.Cleanup(func() { in.Close(); cmd.Wait(); ln.Close() })
	if !p.out.Scan() {
		b.Fatal("the proxy does not start")
	}
	p.addr = p.out.Text()
	return p
}

func (p *proxy) cpu(b *testing.B) time.Duration {
	return p.ask(b, "use")
}

func (p *proxy) ask(b *testing.B, word string) time.Duration {
	fmt.Fprintln(p.in, word)
	p.out.Scan()
	n, err := strconv.ParseInt(p.out.Text(), 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return time.Duration(n)
}

// pss is the process's share of memory in bytes.
func (p *proxy) pss(b *testing.B) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); f[0] == "Pss:" {
			n, _ := strconv.Atoi(f[1])
			return n << 10
		}
	}
	b.Fatal("no Pss")
	return 0
}

// session opens one session and returns its ends.
func (p *proxy) session(b *testing.B) (client, backend net.Conn) {
	client, err := net.Dial("tcp", p.addr)
	if err != nil {
		b.Fatal(err)
	}
	accepted := make(chan net.Conn, 1)
	go func() {
		nc, _ := p.back.Accept()
		accepted <- nc
	}()
	if p.tls {
		tc := tls.Client(client, &tls.Config{InsecureSkipVerify: true})
		if err := tc.Handshake(); err != nil {
			b.Fatal(err)
		}
		client = tc
	}
	backend = <-accepted
	for _, c := range []net.Conn{client, backend} {
		c.SetDeadline(time.Now().Add(time.Minute))
	}
	return client, backend
}

func benchmarkEach(b *testing.B, f func(b *testing.B, p *proxy)) {
	for _, layer := range []string{"raw", "tls"} {
		for _, how := range []string{"join", "loop"} {
			b.Run(layer+"/"+how, func(b *testing.B) { f(b, startProxy(b, how, layer)) })
		}
	}
}

// BenchmarkBulk is what a gigabyte from backend to client costs the proxy, over
// a few sessions at once.
func BenchmarkBulk(b *testing.B) {
	benchmarkEach(b, func(b *testing.B, p *proxy) {
		const size, sessions = 256 << 20, 4
		b.SetBytes(size)
		data := make([]byte, 256<<10)
		var ends [sessions][2]net.Conn
		for i := range ends {
			ends[i][0], ends[i][1] = p.session(b)
		}
		before := p.cpu(b)
		for b.Loop() {
			var wg sync.WaitGroup
			for _, e := range ends {
				wg.Go(func() {
					for n := 0; n < size/sessions; n += len(data) {
						e[1].Write(data)
					}
				})
				wg.Go(func() { io.CopyN(io.Discard, struct{ io.Reader }{e[0]}, size/sessions) })
			}
			wg.Wait()
		}
		used := p.cpu(b) - before
		b.ReportMetric(used.Seconds()*1000/(float64(size)*float64(b.N)/1e9), "cpu-ms/GB")
		for _, e := range ends {
			e[0].Close()
			e[1].Close()
		}
	})
}

// BenchmarkPing is what a small question and its answer cost the proxy.
func BenchmarkPing(b *testing.B) {
	benchmarkEach(b, func(b *testing.B, p *proxy) {
		client, backend := p.session(b)
		go func() {
			buf := make([]byte, 64)
			for {
				n, err := backend.Read(buf)
				if err != nil {
					return
				}
				backend.Write(buf[:n])
			}
		}()
		buf := make([]byte, 64)
		before := p.cpu(b)
		for b.Loop() {
			client.Write(buf[:20])
			io.ReadFull(client, buf[:20])
		}
		used := p.cpu(b) - before
		b.ReportMetric(float64(used.Nanoseconds())/float64(b.N), "cpu-ns/op")
		client.Close()
		backend.Close()
	})
}

// BenchmarkIdle is the memory of an idle session, as the slope from 200 to 4,000
// sessions, each of which has moved 64 kB before.
func BenchmarkIdle(b *testing.B) {
	benchmarkEach(b, func(b *testing.B, p *proxy) {
		few, many := 200, 4000
		if !p.loop {
			many = 1500 // of six descriptors each
		}
		for b.Loop() {
			var ends []net.Conn
			open := func(n int) (asIs, collected int) {
				for len(ends) < 2*n {
					c, e := p.session(b)
					ends = append(ends, c, e)
					buf := make([]byte, 64<<10)
					go e.Write(buf)
					if _, err := io.ReadFull(c, buf); err != nil {
						b.Fatal(err)
					}
				}
				time.Sleep(3 * sweepEvery) // the slope's points are what is left when all is quiet
				asIs = p.pss(b)
				p.ask(b, "gc")
				return asIs, p.pss(b)
			}
			first, firstCollected := open(few)
			second, secondCollected := open(many)
			b.ReportMetric(float64(second-first)/float64(many-few), "pss-B/session")
			b.ReportMetric(float64(secondCollected-firstCollected)/float64(many-few), "pss-B/session-after-gc")
			for _, c := range ends {
				c.Close()
			}
		}
	})
}
