package sieve

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"go.uber.org/zap"

	"switchyard/backend"
	"switchyard/internal/message"
)

// Outbound takes messages that leave the account.
type Outbound interface {
	// Send makes a message durable before it returns; from that moment on it
	// will be delivered or bounced. An empty from is the null sender.
	Send(ctx context.Context, from, to string, body io.ReaderAt, size int64) error
}

// Filter delivers by the recipients' scripts. It is safe for concurrent use.
type Filter struct {
	out Outbound
	o   FilterOptions
}

// FilterOptions of NewFilter. The zero value works.
type FilterOptions struct {
	Name, Version string // of the software, for the test environment
	Host, Domain  string
	Now           func() time.Time
	Logger        *zap.Logger
}

// NewFilter makes a filter.
func NewFilter(out Outbound, o FilterOptions) *Filter {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return &Filter{out, o}
}

// RejectError says that the recipient's script refuses the message.
type RejectError struct{ Reason string }

func (e *RejectError) Error() string { return "the recipient refuses the message: " + e.Reason }

// Incoming is a message for one account.
type Incoming struct {
	backend.Delivery
	Envelope
	RemoteIP, RemoteHost string
}

// Deliver runs the account's active script and does what it says; without one
// the message goes where Delivery says. When it returns nil, everything is
// durable. After any other error but a *RejectError it may be called again with
// the same delivery id: what was done is not done twice. Errors: *RejectError,
// those of User.Deliver and of Outbound.
func (f *Filter) Deliver(ctx context.Context, u backend.User, in Incoming) (backend.Delivered, error) {
	text, ok, err := ScriptsOf(u).Active(ctx)
	if err != nil {
		return backend.Delivered{}, err
	}
	if !ok {
		return u.Deliver(ctx, in.Delivery)
	}
	log := f.o.Logger.With(zap.String("user", u.Account()))
	script, err := Compile(text)
	if err != nil {
		log.Warn("active script is wrong, the message is kept", zap.Error(err))
		return u.Deliver(ctx, in.Delivery)
	}
	root, err := message.Parse(in.Body, in.Size)
	if err != nil {
		return backend.Delivered{}, err
	}
	d := &delivery{f: f, u: u, in: in, mail: Mail{in.Body, in.Size, root}, memory: newMemory(u, f.o.Now())}
	env := Environment{
		Name: f.o.Name, Version: f.o.Version, Domain: f.o.Domain, Host: f.o.Host,
		RemoteIP: in.RemoteIP, RemoteHost: in.RemoteHost, Now: f.o.Now(),
	}
	res := script.Run(d.mail, in.Envelope, env, &account{ctx: ctx, u: u, memory: d.memory})
	if res.Err != nil {
		var own *RuntimeError
		if !errors.As(res.Err, &own) {
			return backend.Delivered{}, res.Err // the store: try again
		}
		log.Info("script could not go on, the message is kept", zap.Error(res.Err))
	}
	return d.act(ctx, res)
}

// delivery is one message on its way.
type delivery struct {
	f      *Filter
	u      backend.User
	in     Incoming
	mail   Mail
	memory *memory
	done   backend.Delivered
}

// act does what a result says.
func (d *delivery) act(ctx context.Context, res Result) (backend.Delivered, error) {
	for _, a := range res.Actions {
		var err error
		switch a := a.(type) {
		case Keep:
			err = d.file(ctx, "", a.Flags, a.Header)
		case FileInto:
			err = d.fileInto(ctx, a)
		case Redirect:
			err = d.redirect(ctx, a)
		case Vacation:
			err = d.answer(ctx, a)
		case Reject:
			err = &RejectError{a.Reason}
		}
		if err != nil {
			return d.done, err
		}
	}
	return d.done, d.memory.save(ctx)
}

// fileInto files into a mailbox, which is made if the script wants it.
func (d *delivery) fileInto(ctx context.Context, a FileInto) error {
	if a.Create {
		_, err := d.u.Create(ctx, a.Mailbox, "")
		switch {
		case err == nil:
			if err := d.u.Subscribe(ctx, a.Mailbox, true); err != nil {
				return err
			}
		case errors.Is(err, backend.ErrMailboxExists), errors.Is(err, backend.ErrMailboxName), errors.Is(err, backend.ErrTooMany):
			// It is there, or cannot be: INBOX takes the message then.
		default:
			return err
		}
	}
	return d.file(ctx, a.Mailbox, a.Flags, a.Header)
}

// file stores the message. Each mailbox has a delivery id of its own.
func (d *delivery) file(ctx context.Context, mailbox string, flags []string, h *Header) error {
	one := d.in.Delivery
	if mailbox != "" {
		one.Mailbox = mailbox
		one.ID = d.id("fileinto", mailbox)
	}
	one.Body, one.Size = h.Message(d.mail)
	one.Flags = append(append([]string(nil), one.Flags...), flags...)
	done, err := d.u.Deliver(ctx, one)
	if errors.Is(err, backend.ErrFlag) || errors.Is(err, backend.ErrTooMany) {
		// Too many keywords: the message is worth more than they are.
		one.Flags = d.in.Flags
		done, err = d.u.Deliver(ctx, one)
	}
	if err == nil {
		d.done = done
	}
	return err
}

// id derives an id of an action from the delivery's; zero stays zero.
func (d *delivery) id(action, about string) [32]byte {
	if d.in.ID == [32]byte{} {
		return d.in.ID
	}
	return sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s", d.in.ID[:], action, about))
}

// once does something that has no delivery id of its own, unless an earlier
// attempt at this delivery did it.
func (d *delivery) once(ctx context.Context, action, about string, do func() error) error {
	if d.in.ID == [32]byte{} {
		return do()
	}
	id := d.id(action, about)
	key := memoryKey(action, string(id[:]))
	if had, err := d.memory.has(ctx, key); had || err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	if err := d.memory.remember(ctx, key, sentMemory); err != nil {
		return err
	}
	return d.memory.save(ctx)
}

// sentMemory is as long as a sender may repeat a delivery.
const sentMemory = 7 * 24 * time.Hour

// redirectedField marks a message that was sent on, by whom: a second time for
// the same account is a loop.
const redirectedField = "X-Sieve-Redirected-From"

func (d *delivery) redirect(ctx context.Context, a Redirect) error {
	fields, err := readFields(d.mail)
	if err != nil {
		return err
	}
	for _, f := range fields.named(redirectedField) {
		if strings.EqualFold(f.bare(), d.u.Account()) {
			d.f.o.Logger.Info("redirect loop, the message is kept", zap.String("user", d.u.Account()), zap.String("to", a.Address))
			return d.file(ctx, "", nil, a.Header)
		}
	}
	return d.once(ctx, "redirect", a.Address, func() error {
		body, size := a.Header.Message(d.mail)
		mark := redirectedField + ": " + d.u.Account() + "\r\n"
		whole := &joined{head: strings.NewReader(mark), size: int64(len(mark)), tail: body, tailSize: size}
		return d.f.out.Send(ctx, d.in.From, a.Address, whole, int64(len(mark))+size)
	})
}

// answer sends a vacation's reply, unless this sender was answered lately.
func (d *delivery) answer(ctx context.Context, a Vacation) error {
	key := memoryKey("vacation", strings.ToLower(a.To)+"\x00"+a.Handle)
	if had, err := d.memory.has(ctx, key); had || err != nil {
		return err
	}
	reply, err := d.reply(a)
	if err != nil {
		return err
	}
	// RFC 5230 §5.1: from nobody, so that nothing answers the answer.
	if err := d.f.out.Send(ctx, "", a.To, bytes.NewReader(reply), int64(len(reply))); err != nil {
		return err
	}
	return d.memory.remember(ctx, key, a.Days)
}

// account is the world that a delivery's script asks.
type account struct {
	ctx    context.Context
	u      backend.User
	memory *memory
}

// Script implements World.
func (w *account) Script(name string) (string, bool, error) {
	text, err := ScriptsOf(w.u).Get(w.ctx, name)
	if errors.Is(err, ErrNoScript) {
		return "", false, nil
	}
	return text, err == nil, err
}

// MailboxExists implements World.
func (w *account) MailboxExists(name string) (bool, error) {
	_, err := w.u.Mailbox(w.ctx, name)
	if errors.Is(err, backend.ErrNoMailbox) {
		return false, nil
	}
	return err == nil, err
}

// MailboxOfID implements World.
func (w *account) MailboxOfID(id string) (string, error) {
	return w.find(func(m *backend.Mailbox) bool { return m.ID.String() == id })
}

// MailboxOfUse implements World.
func (w *account) MailboxOfUse(use string) (string, error) {
	return w.find(func(m *backend.Mailbox) bool { return m.Use != "" && strings.EqualFold(m.Use, use) })
}

func (w *account) find(is func(*backend.Mailbox) bool) (string, error) {
	list, err := w.u.Mailboxes(w.ctx)
	for i := range list {
		if is(&list[i]) {
			return list[i].Name, err
		}
	}
	return "", err
}

// Seen implements World.
func (w *account) Seen(id string, keep time.Duration, last bool) (bool, error) {
	key := memoryKey("duplicate", id)
	had, err := w.memory.before(w.ctx, key)
	if err == nil && (!had || last) {
		err = w.memory.remember(w.ctx, key, keep)
	}
	return had, err
}
