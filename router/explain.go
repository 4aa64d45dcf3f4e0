package router

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"switchyard/lookup"
	"switchyard/router/upstream"
)

// Memory is implemented by directories that can say what they remember,
// without asking and without forgetting.
type Memory interface {
	// Remembered returns what Lookup would answer about the name from memory
	// now, lookup.ErrAbsent included, and when the directory said so (zero: not
	// known). It reports false when Lookup would ask.
	Remembered(name string) (account lookup.Account, since time.Time, ok bool, err error)
}

// Explanation says where a session of an account, or mail for it, would go.
type Explanation struct {
	Address string `json:"address"` // as it was asked for
	Steps   []Step `json:"steps"`

	User       string        `json:"user,omitempty"`
	Status     lookup.Status `json:"status,omitempty"` // as the directory words it
	Generation uint64        `json:"generation,omitempty"`
	Home       string        `json:"home,omitempty"` // the backend; empty when there is none
	Routes     []Route       `json:"routes,omitempty"`

	// Answer is found, absent or unavailable; Error says why there is no home.
	Answer string `json:"answer"`
	Error  string `json:"error,omitempty"`
}

// Step is one step on the way.
type Step struct {
	Step   string `json:"step"`
	Source string `json:"source"` // what decided it
	Result string `json:"result"`
}

// Route is how the home is reached for a service: the nodes in the order in
// which they would be tried now.
type Route struct {
	Service upstream.Service `json:"service"`
	Nodes   []Hop            `json:"nodes"`
}

// Hop is a node on a route.
type Hop struct {
	Node    string `json:"node"`
	Address string `json:"address"`
	TLS     string `json:"tls"`

	// State is that of the service there, since when, and why it is not up.
	State  upstream.State `json:"state"`
	Since  time.Time      `json:"since"`
	Reason string         `json:"reason,omitempty"`
}

// Explain goes the way of a session as far as the choice of a node, without
// connecting, and says what decided each step. The directory is asked in the way
// of a login: from the cache where that has an answer. It blocks as Lookup does.
func (r *Router) Explain(ctx context.Context, address string) Explanation {
	e := Explanation{Address: address, Answer: lookup.AnswerFound.String()}
	if err := r.explain(ctx, &e); err != nil {
		e.Error = err.Error()
	}
	return e
}

func (e *Explanation) step(step, source, format string, args ...any) {
	e.Steps = append(e.Steps, Step{step, source, fmt.Sprintf(format, args...)})
}

func (r *Router) explain(ctx context.Context, e *Explanation) error {
	name, err := lookup.CleanName(e.Address, r.o.DefaultDomain)
	if err != nil {
		e.Answer = lookup.AnswerAbsent.String()
		e.step("name", "rules for names", "refused: %v", err)
		return err
	}
	source := "as it is"
	if lookup.Domain(name) != "" && !strings.Contains(e.Address, "@") {
		source = "default domain"
	}
	e.User = name
	e.step("name", source, "%s", name)
	account, err := r.explainAccount(ctx, e, name)
	if err != nil {
		return err
	}
	if err := r.explainHome(e, account); err != nil {
		return err
	}
	r.explainRoutes(e)
	return nil
}

// explainAccount asks who the account is.
func (r *Router) explainAccount(ctx context.Context, e *Explanation, name string) (lookup.Account, error) {
	source := "directory or cache"
	var account lookup.Account
	err, remembered := error(nil), false
	if m, ok := r.dir.(Memory); ok {
		var since time.Time
		source = "directory"
		if account, since, remembered, err = m.Remembered(name); remembered {
			source = "cache"
			if !since.IsZero() {
				source = fmt.Sprintf("cache, %v old", time.Since(since).Round(time.Millisecond))
			}
		}
	}
	if !remembered {
		account, err = r.find(ctx, name, askLookup)
	}
	answer := lookup.AnswerOf(err)
	e.Answer = answer.String()
	if err != nil {
		e.step("account", source, "%s: %v", answer, err)
		return lookup.Account{}, err
	}
	e.step("account", source, "found: %s, home %q, generation %d", account.Name, account.Home, account.Generation)
	e.User, e.Status, e.Generation = account.Name, account.Status, account.Generation
	e.step("status", "account", "%q: logins %s, mail %s", account.Status, allowed(account.Status.MayLogin()), allowed(account.Status.MayReceive()))
	return account, nil
}

func allowed(yes bool) string {
	if yes {
		return "allowed"
	}
	return "refused"
}

// explainHome says which backend owns the account.
func (r *Router) explainHome(e *Explanation, account lookup.Account) error {
	source := "account"
	if account.Home == "" {
		source = "default backend"
	}
	home, err := r.home(account)
	switch {
	case errors.Is(err, errNoHome):
		e.step("home", source, "none is set: give the account a home, or set default_backend; clients are told \"not now\"")
	case errors.Is(err, errNoBackend):
		e.step("home", source, "%v is configured: add the backend, or mend the home; clients are told \"not now\"", err)
	case err != nil:
		e.step("home", source, "%v", err)
	default:
		e.step("home", source, "%s", home)
	}
	e.Home = home
	return err
}

// services are what a node may offer, in the order of an explanation.
var services = [...]upstream.Service{upstream.IMAP, upstream.POP3, upstream.Submission, upstream.LMTP, upstream.ManageSieve}

// explainRoutes says how the home is reached.
func (r *Router) explainRoutes(e *Explanation) {
	if owner := r.up.Owner(e.Home, e.User); owner != "" {
		e.step("owner", "hint of a node", "%s", owner)
	}
	for _, service := range services {
		nodes := r.up.Route(e.Home, service, e.User)
		if len(nodes) == 0 {
			e.step(string(service), "configuration", "no node offers it")
			continue
		}
		route := Route{Service: service}
		var words []string
		for _, n := range nodes {
			hop := hopOf(n, service)
			route.Nodes = append(route.Nodes, hop)
			words = append(words, hop.String())
		}
		e.Routes = append(e.Routes, route)
		e.step(string(service), "order and states of the nodes", "%s", strings.Join(words, ", then "))
	}
}

func hopOf(n upstream.NodeStatus, service upstream.Service) Hop {
	hop := Hop{Node: n.Name}
	for _, s := range n.Services {
		if s.Service == service {
			hop.Address, hop.TLS = s.Address, s.TLS
			hop.State, hop.Since, hop.Reason = s.State, s.Since, s.Reason
		}
	}
	return hop
}

func (h Hop) String() string {
	text := fmt.Sprintf("%s at %s (tls %s)", h.Node, h.Address, h.TLS)
	since := h.Since.Format(time.RFC3339)
	switch h.State {
	case upstream.Suspect:
		return fmt.Sprintf("%s, which is suspect since %s: %s", text, since, h.Reason)
	case upstream.Down:
		return fmt.Sprintf("never %s, which is down since %s: %s", text, since, h.Reason)
	case upstream.Drained:
		return fmt.Sprintf("never %s, which is drained since %s, %s", text, since, h.Reason)
	}
	return text
}

// String is the explanation as text, one step a line.
func (e Explanation) String() string {
	var b strings.Builder
	for _, s := range e.Steps {
		fmt.Fprintf(&b, "%-11s %s  [%s]\n", s.Step, s.Result, s.Source)
	}
	if e.Error != "" {
		fmt.Fprintf(&b, "%-11s %s\n", "error", e.Error)
	}
	return b.String()
}
