package module

import (
	"bufio"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"switchyard/lookup/internal/authent"
	"switchyard/lookup/internal/netwin"
	"switchyard/lookup/lookuptest"
)

// asModule names the environment variable that makes the test binary a module;
// its value is the directory of its users and of what is wrong with it.
const asModule = "AUTHENT_TEST_MODULE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asModule); dir != "" {
		(&fake{dir: dir, out: bufio.NewWriter(os.Stdout)}).run()
		os.Exit(0)
	}
	if dir := os.Getenv(asTcpauthd); dir != "" {
		if err := beTcpauthd(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// The tests wait more than they work.
	flag.Parse()
	if err := flag.Set("test.parallel", "3"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// fake is a module, written as NetWin describes them: an old one, which knows
// none of our extensions. Its users are files of a directory.
type fake struct {
	dir string
	out *bufio.Writer
}

// The files of a fake's directory beside its users.
const (
	faultFile = "fault" // what is wrong with it, see fake.fault
	pidsFile  = "pids"  // of all that were started
	seenFile  = "seen"  // every line that one read
)

func (f *fake) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fake) append(file, text string) {
	out, err := os.OpenFile(f.path(file), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer out.Close()
	out.WriteString(text)
}

func (f *fake) run() {
	f.append(pidsFile, strconv.Itoa(os.Getpid())+"\n")
	if f.fault() == "start" {
		os.Exit(3)
	}
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSuffix(line, "\n")
		f.append(seenFile, line+"\n")
		if line == "exit" {
			f.say("+OK")
			return
		}
		f.spoil(f.fault(), line)
	}
}

func (f *fake) say(format string, args ...any) {
	fmt.Fprintf(f.out, format+"\n", args...)
	f.out.Flush()
}

func (f *fake) raw(text string) {
	f.out.WriteString(text)
	f.out.Flush()
}

// fault returns what is wrong now, "" for nothing.
func (f *fake) fault() string {
	text, _ := os.ReadFile(f.path(faultFile))
	return string(text)
}

// spoil answers as the fault says.
func (f *fake) spoil(fault, line string) {
	word := strings.Fields(line)
	switch fault {
	case "":
		f.answer(word, line)
	case "hang":
		select {}
	case "stop": // and never come back
		syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	case "die":
		os.Exit(1)
	case "half":
		f.raw("+OK " + word[1] + " conf")
		os.Exit(1)
	case "half and hang":
		f.raw("+OK " + word[1] + " conf")
		select {}
	case "slow":
		time.Sleep(150 * time.Millisecond)
		f.answer(word, line)
	case "garbage":
		f.say("Segmentation fault")
	case "control":
		f.say("+OK %s config 0 a=\"\x01\"", word[1])
	case "long":
		f.raw("+OK " + word[1] + " config 0 a=\"" + strings.Repeat("x", netwin.MaxLine+10) + "\"\n")
	case "endless":
		for {
			f.raw(strings.Repeat("x", 4096))
		}
	case "flood":
		for {
			f.say("+DATA nobody@x.test")
		}
	case "another":
		f.say("+OK another@x.test config 0")
	case "no name":
		f.say("+OK")
	case "no path":
		f.say(`+OK %s tohost="b1"`, word[1])
	case "open quote":
		f.say(`+OK %s config 0 tohost="b1`, word[1])
	case "twice":
		f.say(`+OK %s config 0 tohost="b1" tohost="b2"`, word[1])
	case "generation":
		f.say(`+OK %s config 0 homegen="many"`, word[1])
	case "data":
		f.say("+DATA %s", word[1])
	case "dead":
		f.say("-DEAD database is down")
	case "two lines":
		f.raw("-ERR no such user\n-ERR no such user\n")
	case "blank":
		f.say("")
	case "chatty":
		fmt.Fprintln(os.Stderr, "got", line)
		fmt.Fprintln(os.Stderr, strings.Repeat("y", 5000))
		f.say("-ERR cannot " + line)
	case "late":
		f.answer(word, line)
		time.Sleep(20 * time.Millisecond)
		f.say("-ERR no such user")
	default:
		panic("no fault " + fault)
	}
}

// answer is what a module in good health says.
func (f *fake) answer(word []string, line string) {
	switch word[0] {
	case "lookup", "check":
		password, labels, found := f.read(word[1])
		switch {
		case !found:
			f.say("-ERR no such user")
		case word[0] == "check" && password != word[2]:
			f.say("-ERR %s password wrong or not a valid user", word[1])
		case labels == "":
			f.say("+OK %s config 0", word[1])
		default:
			f.say("+OK %s config 0 %s", word[1], labels)
		}
	case "set":
		parts := strings.SplitN(line, " ", 4)
		f.set(parts[1], parts[2], strings.Join(parts[3:], ""))
	case "del":
		if os.Remove(f.user(word[1])) != nil {
			f.say("-ERR no such user")
			return
		}
		f.say("+OK %s deleted", word[1])
	case "search":
		f.search(word[1:])
	default:
		f.say("-ERR unknown command")
	}
}

func (f *fake) user(name string) string { return f.path("user " + name) }

func (f *fake) read(name string) (password, labels string, found bool) {
	text, err := os.ReadFile(f.user(name))
	if err != nil {
		return "", "", false
	}
	password, labels, _ = strings.Cut(string(text), " ")
	return password, labels, true
}

func (f *fake) set(name, password, labels string) {
	old, had, found := f.read(name)
	if password == "(NULL)" {
		if password = old; !found {
			f.say("-ERR no such user")
			return
		}
	}
	merged, err := netwin.ParseLabels(had)
	if err != nil {
		panic(err)
	}
	given, err := netwin.ParseLabels(labels)
	if err != nil {
		f.say("-ERR bad labels")
		return
	}
	maps.Copy(merged, given)
	maps.DeleteFunc(merged, func(_, value string) bool { return value == "" })
	write(f.dir, name, password, merged)
	f.say("+OK %s added to database", name)
}

// write writes a user's file.
func write(dir, name, password string, labels map[string]string) {
	path := filepath.Join(dir, "user "+name)
	text := password + " " + string(netwin.AppendLabels(nil, labels))
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		panic(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		panic(err)
	}
}

func (f *fake) search(word []string) {
	r, err := authent.ParseRequest("search " + strings.Join(word, " "))
	if err != nil {
		f.say("-ERR %v", err)
		return
	}
	users, _ := filepath.Glob(f.path("user *"))
	slices.Sort(users)
	var found []string
	for _, path := range users {
		name := strings.TrimPrefix(filepath.Base(path), "user ")
		if r.Pattern == "*" || strings.Contains(name, r.Pattern) {
			found = append(found, name)
		}
	}
	for i, name := range found {
		if i >= r.From && (r.Max == 0 || i < r.From+r.Max) {
			f.say("+DATA %s", name)
		}
	}
	f.say("+OK Search Complete %d items found out of %d", len(found), len(users))
}

// world is a directory of fakes, as the test sees it.
type world struct{ dir string }

// newWorld makes one that has the suite's accounts.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t.TempDir()}
	for _, r := range lookuptest.Accounts() {
		write(w.dir, r.Name, r.Password, netwin.Labels(r.Account))
	}
	return w
}

// fault makes something wrong with all modules, from their next request on.
func (w *world) fault(t testing.TB, fault string) {
	t.Helper()
	path := filepath.Join(w.dir, faultFile)
	if err := os.WriteFile(path+".new", []byte(fault), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// pids returns those of all modules that were started.
func (w *world) pids() []int {
	text, _ := os.ReadFile(filepath.Join(w.dir, pidsFile))
	var pids []int
	for _, word := range strings.Fields(string(text)) {
		pid, _ := strconv.Atoi(word)
		pids = append(pids, pid)
	}
	return pids
}

// alive returns how many modules are running.
func (w *world) alive() int {
	n := 0
	for _, pid := range w.pids() {
		if syscall.Kill(pid, 0) == nil {
			n++
		}
	}
	return n
}

// seen returns every line that a module was sent.
func (w *world) seen() []string {
	text, _ := os.ReadFile(filepath.Join(w.dir, seenFile))
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// open starts a module with fakes.
func (w *world) open(t testing.TB, opts Options) *Module {
	t.Helper()
	opts.Env = append(os.Environ(), asModule+"="+w.dir)
	m, err := New([]string{os.Args[0]}, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func testBinary() string { return os.Args[0] }

func request(verb authent.Verb, name string) authent.Request {
	return authent.Request{Verb: verb, Name: name}
}
