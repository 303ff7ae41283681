package page

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

const (
	maxRequests    = 16 // at a time
	maxQueue       = 8  // of these, that are costly
	maxConnections = 64
	requestTimeout = 10 * time.Second
)

// policyOfContent is what a browser may load for the page and do with it (CSP level 3).
const policyOfContent = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// guard keeps out what is no reader of the page.
func guard(next http.Handler) http.Handler {
	room := make(chan struct{}, maxRequests)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policyOfContent)
		h.Set("X-Frame-Options", "DENY")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "this page can only be read", http.StatusMethodNotAllowed)
			return
		case !ownName(r.Host):
			http.Error(w, "use the node's IP address, or localhost: other names are refused, as they could be another site's", http.StatusMisdirectedRequest)
			return
		case foreign(r):
			http.Error(w, "another site may not read this", http.StatusForbidden)
			return
		}
		select {
		case room <- struct{}{}:
			defer func() { <-room }()
		default:
			refuse(w, "too many requests at a time")
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// queue answers one question at a time; others wait for as long as their requests last, and only so many that other requests find room.
func queue() func(http.HandlerFunc) http.HandlerFunc {
	room, turn := make(chan struct{}, maxQueue), make(chan struct{}, 1)
	return func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			select {
			case room <- struct{}{}:
				defer func() { <-room }()
			default:
				refuse(w, "busy: too many searches and traces at a time")
				return
			}
			select {
			case turn <- struct{}{}:
				defer func() { <-turn }()
			case <-r.Context().Done():
				refuse(w, "busy: other searches and traces take long")
				return
			}
			next(w, r)
		}
	}
}

// refuse says that there is no time for a request now.
func refuse(w http.ResponseWriter, why string) {
	w.Header().Set("Retry-After", "1")
	http.Error(w, why, http.StatusServiceUnavailable)
}

// ownName reports whether a Host header is an IP address or localhost.
func ownName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || strings.EqualFold(host, "localhost")
}

// foreign reports whether a browser says that another site asks. A link from there may be followed.
func foreign(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	return (site == "cross-site" || site == "same-site") && r.Header.Get("Sec-Fetch-Mode") != "navigate"
}
