package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/proxy/dnat"
	"github.com/twill-cni/twill/store"
)

// maxAnswer is the size in bytes up to which an answer is read: some 500,000 paths.
const maxAnswer = 256 << 20

// Client asks the daemon of one run directory. Its methods may be called concurrently.
type Client struct {
	path string
	http *http.Client
}

// NewClient returns a Client of the daemon with this run directory. It does not connect.
func NewClient(runDir string) *Client {
	return NewClientBy(SocketPath(runDir), func(ctx context.Context) (net.Conn, error) { return Dial(ctx, runDir) })
}

// NewClientBy returns a Client of the daemon that dial connects to; name is what errors call that. It does not connect.
func NewClientBy(name string, dial func(context.Context) (net.Conn, error)) *Client {
	return &Client{path: name, http: &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives: true,
	}}}
}

// Dial connects to the socket of the daemon with this run directory.
func Dial(ctx context.Context, runDir string) (net.Conn, error) {
	dir, err := os.Open(runDir)
	if err != nil {
		return nil, err
	}
	defer dir.Close() // opened to be named: closing cannot lose anything
	return (&net.Dialer{}).DialContext(ctx, "unix", short(dir))
}

// Sessions returns the daemon's BGP sessions.
func (c *Client) Sessions(ctx context.Context) ([]bgp.SessionState, error) {
	return get[[]bgp.SessionState](ctx, c, "/bgp/sessions", nil)
}

// LeftOut returns what the daemon's BGP sessions were planned without, and why.
func (c *Client) LeftOut(ctx context.Context) ([]bgp.LeftOut, error) {
	return get[[]bgp.LeftOut](ctx, c, "/bgp/left-out", nil)
}

// Routes returns what the daemon learned.
func (c *Client) Routes(ctx context.Context) ([]bgp.LearnedRoute, error) {
	return get[[]bgp.LearnedRoute](ctx, c, "/bgp/routes", nil)
}

// Paths returns what the daemon knows of each path that the query matches.
func (c *Client) Paths(ctx context.Context, query bgp.PathQuery) ([]bgp.Path, error) {
	return get[[]bgp.Path](ctx, c, "/bgp/paths", formOf(query))
}

// Services returns what the daemon's kernel holds of a Service, or of all when name is the zero value, and what it should hold and does not.
func (c *Client) Services(ctx context.Context, name store.ObjectName) (dnat.Report, error) {
	return get[dnat.Report](ctx, c, "/services", nameForm(name))
}

// Differences returns what the daemon's kernel should hold of a Service, or of all, and does not, and what it holds and should not.
func (c *Client) Differences(ctx context.Context, name store.ObjectName) ([]dnat.Difference, error) {
	return get[[]dnat.Difference](ctx, c, "/services/differences", nameForm(name))
}

func nameForm(name store.ObjectName) url.Values {
	if name == (store.ObjectName{}) {
		return nil
	}
	return url.Values{"name": {name.String()}}
}

func get[T any](ctx context.Context, c *Client, path string, form url.Values) (answer T, err error) {
	return ask[T](ctx, c, http.MethodGet, path, form)
}

func ask[T any](ctx context.Context, c *Client, method, path string, form url.Values) (answer T, err error) {
	target := url.URL{Scheme: "http", Host: "twilld", Path: path, RawQuery: form.Encode()}
	request, err := http.NewRequestWithContext(ctx, method, target.String(), nil)
	if err != nil {
		return answer, fmt.Errorf("ask twilld: %w", err)
	}
	response, err := c.http.Do(request)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return answer, fmt.Errorf("ask twilld: there is no socket %s: twilld does not run, or has another --run-dir", c.path)
	case errors.Is(err, syscall.ECONNREFUSED):
		return answer, fmt.Errorf("ask twilld: nobody answers at %s: twilld was killed, or starts at this moment", c.path)
	case err != nil:
		return answer, fmt.Errorf("ask twilld on %s: %w", c.path, err)
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	body := io.LimitReader(response.Body, maxAnswer)
	if response.StatusCode != http.StatusOK {
		reason, err := io.ReadAll(io.LimitReader(body, 4<<10))
		return answer, errors.Join(fmt.Errorf("twilld answers: %s", strings.TrimSpace(string(reason))), err)
	}
	if err := json.NewDecoder(body).Decode(&answer); err != nil {
		return answer, fmt.Errorf("read twilld's answer: %w", err)
	}
	return answer, nil
}
