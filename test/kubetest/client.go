package kubetest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

// Request is one call of the Kubernetes API.
type Request struct {
	Method string // default GET
	Path   string // with the query, for example /api/v1/nodes?limit=1
	Body   []byte
	Type   string // of Body; default application/json
}

// StatusError is what the API server answers when it refuses.
type StatusError struct {
	Code    int // of HTTP
	Reason  string
	Message string
}

func (e *StatusError) Error() string { return fmt.Sprintf("%s (%d %s)", e.Message, e.Code, e.Reason) }

// IsNotFound reports whether the API server says that there is no such object.
func IsNotFound(err error) bool {
	refused, ok := errors.AsType[*StatusError](err)
	return ok && refused.Code == http.StatusNotFound
}

// Do sends a request as the administrator and returns the answer's body. An answer other than success is a *StatusError.
func (c *Cluster) Do(ctx context.Context, r Request) ([]byte, error) {
	method := cmp.Or(r.Method, http.MethodGet)
	request, err := http.NewRequestWithContext(ctx, method, c.URL()+r.Path, bytes.NewReader(r.Body))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, r.Path, err)
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("Content-Type", cmp.Or(r.Type, "application/json"))
	answer, err := c.admin.Do(request)
	if err != nil {
		return nil, err // it names method and URL
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode >= http.StatusMultipleChoices {
		err = refusal(answer.StatusCode, body)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, r.Path, err)
	}
	return body, nil
}

// refusal reads the object of kind Status that the API server answers with. /readyz answers with plain text.
func refusal(code int, body []byte) error {
	e := &StatusError{Code: code}
	if err := json.Unmarshal(body, e); err != nil || e.Message == "" {
		e.Message = strings.TrimSpace(string(body))
	}
	e.Code = code
	return e
}

// Get reads the object at a path of the API.
func (c *Cluster) Get(ctx context.Context, path string, into any) error {
	body, err := c.Do(ctx, Request{Path: path})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("understand %s: %w", path, err)
	}
	return nil
}

// client returns a client whose connections come from kube-apiserver's namespace.
func (c *Cluster) client(user pair) (*http.Client, error) {
	certificate, err := tls.X509KeyPair(user.cert, user.key)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(c.ca.cert)
	t := transport(c.options.Namespace)
	t.TLSClientConfig = &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}}
	t.ForceAttemptHTTP2 = true
	return &http.Client{Transport: t}, nil
}

// kind is what the API server says about objects of one kind.
type kind struct {
	Name       string // in paths: services
	Kind       string
	Namespaced bool
	status     bool // has a status of its own path
}

// kinds remembers what the API server said about kinds. A custom resource that was defined later is asked for then.
type kinds struct {
	mu    sync.Mutex
	known map[string]kind // by APIVERSION KIND
}

// base returns the path of a group and version: v1 is that of the core group, which has no name.
func base(apiVersion string) string {
	if strings.Contains(apiVersion, "/") {
		return "/apis/" + apiVersion
	}
	return "/api/" + apiVersion
}

// kind asks the API server about a kind, once.
func (c *Cluster) kind(ctx context.Context, apiVersion, name string) (kind, error) {
	c.kinds.mu.Lock()
	defer c.kinds.mu.Unlock()
	if k, ok := c.kinds.known[apiVersion+" "+name]; ok {
		return k, nil
	}
	var list struct{ Resources []kind }
	if err := c.Get(ctx, base(apiVersion), &list); err != nil {
		return kind{}, err
	}
	if c.kinds.known == nil {
		c.kinds.known = map[string]kind{}
	}
	statuses := map[string]bool{}
	for _, k := range list.Resources {
		if resource, sub, ok := strings.Cut(k.Name, "/"); ok {
			statuses[resource] = statuses[resource] || sub == "status"
		}
	}
	for _, k := range list.Resources {
		if !strings.Contains(k.Name, "/") {
			k.status = statuses[k.Name]
			c.kinds.known[apiVersion+" "+k.Kind] = k
		}
	}
	k, ok := c.kinds.known[apiVersion+" "+name]
	if !ok {
		return k, fmt.Errorf("the API server knows no kind %s of %s", name, apiVersion)
	}
	return k, nil
}
