package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path"
	"strings"
	"time"
)

// The defaults of a Config.
const (
	DefaultPrefix         = "/coreos.com/network"
	DefaultLeaseTTL       = 24 * time.Hour // flannel's
	DefaultRequestTimeout = 5 * time.Second
	DefaultHoldover       = 15 * time.Second
)

// Config says how etcd is reached and where the records are. Its text and log forms leave the credentials out.
type Config struct {
	// Endpoints are tried in turn: http://HOST:PORT, https://HOST:PORT, unix:///PATH, unixs:///PATH or HOST:PORT, all with TLS or all
	// without. HOST:PORT and unix mean TLS when one of the files below is given.
	Endpoints []string
	Prefix    string // DefaultPrefix when empty

	// PEM files, read again at each connection so that they can be rotated. Without a CAFile the system's roots are trusted.
	CAFile, CertFile, KeyFile string

	Username     string
	Password     string
	PasswordFile string // used when Password is empty, and read again when etcd refuses it; a line break at its end is cut off

	// LeaseTTL is how long a node's record outlives its last renewal; it is renewed three times in that time. It has to be
	// longer than the outages that a node's subnet should survive. DefaultLeaseTTL when 0.
	LeaseTTL       time.Duration
	RequestTimeout time.Duration // of one request; DefaultRequestTimeout when 0

	// Holdover is how long leases outlive etcd's loss of its data, or their expiry in a long outage, counted anew whenever one of their
	// nodes claimed again. Nodes notice with their next probe and claim at once; the rest is reserve for a busy server that has
	// just come up. DefaultHoldover when 0.
	Holdover time.Duration

	// Dial, if not nil, connects to an endpoint's address in place of the usual way: for those who reach etcd from another network namespace.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	// PodTTL is how long the records of a node's pods outlive their last renewal; DefaultPodTTL when 0.
	PodTTL time.Duration
}

// String names the endpoints and the prefix.
func (c Config) String() string {
	return fmt.Sprintf("etcd %s prefix %s", strings.Join(c.Endpoints, ","), c.Prefix)
}

// LogValue is what slog writes.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// withDefaults validates c and fills in what is left out.
func (c Config) withDefaults() (Config, error) {
	if len(c.Endpoints) == 0 {
		return c, errors.New("no endpoint is given")
	}
	if _, err := c.secure(); err != nil {
		return c, err
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return c, errors.New("a client certificate needs both its file and that of its key")
	}
	if c.Username == "" && (c.Password != "" || c.PasswordFile != "") {
		return c, errors.New("a password is given without a user name")
	}
	if c.Username != "" && c.Password == "" && c.PasswordFile == "" {
		return c, fmt.Errorf("user %q has no password", c.Username)
	}
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	c.Prefix = path.Clean(c.Prefix)
	if c.LeaseTTL == 0 {
		c.LeaseTTL = DefaultLeaseTTL
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = DefaultRequestTimeout
	}
	if c.Holdover == 0 {
		c.Holdover = DefaultHoldover
	}
	if c.PodTTL == 0 {
		c.PodTTL = DefaultPodTTL
	}
	if c.LeaseTTL < time.Second || c.PodTTL < time.Second || c.RequestTimeout < 0 {
		return c, fmt.Errorf("lease TTL %s, pod TTL %s and request timeout %s: want at least a second", c.LeaseTTL, c.PodTTL, c.RequestTimeout)
	}
	return c, nil
}

// secure reports whether the endpoints are reached with TLS.
func (c Config) secure() (bool, error) {
	files := c.CAFile != "" || c.CertFile != "" || c.KeyFile != ""
	var tls, plain string
	for _, ep := range c.Endpoints {
		scheme, rest, ok := strings.Cut(ep, "://")
		if !ok {
			scheme, rest = "", ep
		}
		if _, err := url.Parse(ep); (ok && err != nil) || rest == "" {
			return false, fmt.Errorf("endpoint %q is not an address", ep)
		}
		switch scheme {
		case "https", "unixs":
			tls = ep
		case "http":
			plain = ep
		case "", "unix":
			if files {
				tls = ep
			} else {
				plain = ep
			}
		default:
			return false, fmt.Errorf("endpoint %q: the scheme is not http, https, unix or unixs", ep)
		}
	}
	switch {
	case tls != "" && plain != "":
		return false, fmt.Errorf("endpoint %q uses TLS and endpoint %q does not", tls, plain)
	case plain != "" && files:
		return false, fmt.Errorf("endpoint %q does not use TLS, but certificates are given", plain)
	}
	return tls != "", nil
}

// password returns the password, from its file when that is how it is given.
func (c Config) password() (string, error) {
	if c.Password != "" || c.PasswordFile == "" {
		return c.Password, nil
	}
	text, err := os.ReadFile(c.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("read the etcd password: %w", err)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}
