package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
)

// addSessions adds the sessions of the elders that a query describes.
func (c *Console) addSessions(ctx context.Context, q url.Values, out *list) {
	if c.elders == nil {
		return
	}
	all := url.Values{}
	for key, values := range q {
		if key != "limit" {
			all[key] = values
		}
	}
	err := c.elders.Each(ctx, http.MethodGet, "/sessions?"+all.Encode(), nil, func(pid, status int, body []byte) error {
		var theirs list
		if err := answered(status, body, &theirs); err != nil {
			return err
		}
		for _, one := range theirs.Sessions {
			one.Process = pid
			out.Sessions = append(out.Sessions, one)
		}
		return nil
	})
	out.Incomplete = reason(err)
	slices.SortStableFunc(out.Sessions, func(a, b session) int { return a.Since.Compare(b.Since) })
}

// addBackends adds the elders' sessions at each node.
func (c *Console) addBackends(ctx context.Context, out *backends) {
	if c.elders == nil {
		return
	}
	out.Incomplete = reason(c.elders.Each(ctx, http.MethodGet, "/backends", nil, func(_, status int, body []byte) error {
		var theirs backends
		if err := answered(status, body, &theirs); err != nil {
			return err
		}
		for _, b := range theirs.Backends {
			i := slices.IndexFunc(out.Backends, func(mine backend) bool { return mine.Name == b.Name })
			if i < 0 {
				continue // it is in no configuration any more
			}
			for node, n := range b.Sessions {
				out.Backends[i].Sessions[node] += n
			}
		}
		return nil
	}))
}

// passOn tells the elders to do what this process has begun.
func (c *Console) passOn(ctx context.Context, path string, o order, out *begun) {
	if c.elders == nil {
		return
	}
	body, err := json.Marshal(o)
	if err == nil {
		err = c.elders.Each(ctx, http.MethodPost, path, body, func(_, status int, body []byte) error {
			var theirs begun
			err := answered(status, body, &theirs)
			out.Sessions += theirs.Sessions
			return err
		})
	}
	out.Incomplete = reason(err)
}

// answered reads an elder's answer.
func answered(status int, body []byte, into any) error {
	if status >= 300 {
		var problem struct{ Error string }
		if json.Unmarshal(body, &problem); problem.Error != "" {
			return errors.New(problem.Error)
		}
		return fmt.Errorf("status %d", status)
	}
	return json.Unmarshal(body, into)
}

func reason(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
