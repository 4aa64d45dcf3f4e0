package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// proxies are the admin listeners that a command asks, and how it answers.
type proxies struct {
	addresses []string
	json      bool
	dryRun    bool
	out       io.Writer
}

// adminVariable names the proxies when no flag does.
const adminVariable = "SWITCHYARD_PROXIES"

// adminTimeout bounds one request to an admin listener.
const adminTimeout = 15 * time.Second

// flags adds the flags that commands on proxies share.
func (p *proxies) flags(cmd *cobra.Command, changes bool) {
	cmd.Flags().StringSliceVar(&p.addresses, "proxy", nil, "admin `address` of a proxy, such as 127.0.0.1:9000; may be repeated (default: "+adminVariable+")")
	cmd.Flags().BoolVar(&p.json, "json", false, "answer in JSON: one object for each proxy")
	if changes {
		cmd.Flags().BoolVar(&p.dryRun, "dry-run", false, "say what would happen, and do nothing")
	}
}

// answer is what one proxy said.
type answer struct {
	Proxy  string          `json:"proxy"`
	Error  string          `json:"error,omitempty"`
	Answer json.RawMessage `json:"answer,omitempty"`
}

// each asks every proxy the same. Body nil is a GET. With --json the answers are
// printed as they are; else show prints each. A proxy that cannot be asked does
// not keep the others from being asked; it is an error at the end.
func (p *proxies) each(cmd *cobra.Command, path string, body any, show func(proxy string, answer []byte) error) error {
	p.out = cmd.OutOrStdout()
	addresses := p.addresses
	if len(addresses) == 0 {
		addresses = strings.FieldsFunc(os.Getenv(adminVariable), func(r rune) bool { return r == ',' || r == ' ' })
	}
	if len(addresses) == 0 {
		return fmt.Errorf("no proxy is named: use --proxy HOST:PORT with the address of its admin listener ([proxyd] admin), or set %s", adminVariable)
	}
	var errs []error
	for _, address := range addresses {
		got, err := ask(cmd.Context(), address, path, body)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", address, err))
		}
		switch {
		case p.json:
			a := answer{Proxy: address, Answer: got}
			if err != nil {
				a.Error = err.Error()
			}
			if err := json.NewEncoder(p.out).Encode(a); err != nil {
				return err
			}
		case err == nil:
			if err := show(address, got); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", address, err))
			}
		}
	}
	return errors.Join(errs...)
}

// ask makes one request. Errors say what to do next.
func ask(ctx context.Context, address, path string, body any) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	method, content := http.MethodGet, io.Reader(nil)
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		method, content = http.MethodPost, bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, content)
	if err != nil {
		return nil, fmt.Errorf("%q is not an address such as 127.0.0.1:9000", address)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot be asked: %w; is proxyd running there, with an admin listener?", cause(err))
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 {
		return got, nil
	}
	var said struct{ Error string }
	if json.Unmarshal(got, &said) != nil || said.Error == "" {
		said.Error = resp.Status
	}
	return nil, errors.New(said.Error)
}

// cause takes the URL out of an error of net/http.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
