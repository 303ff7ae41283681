package kubetest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"sigs.k8s.io/yaml"
)

// object is what a manifest says about where an object lives, and its text as JSON.
type object struct {
	APIVersion string
	Kind       string
	Metadata   struct{ Name, Namespace string }
	Status     json.RawMessage
	json       []byte
}

// objects reads manifests: YAML documents with one object each. Empty documents are passed over.
func objects(manifests string) ([]object, error) {
	var found []object
	for _, text := range documents(manifests) {
		o := object{}
		var err error
		if o.json, err = yaml.YAMLToJSONStrict([]byte(text)); err == nil {
			err = json.Unmarshal(o.json, &o)
		}
		if err != nil {
			return nil, fmt.Errorf("read the manifest %q: %w", text, err)
		}
		if bytes.Equal(o.json, []byte("null")) {
			continue
		}
		if o.APIVersion == "" || o.Kind == "" || o.Metadata.Name == "" {
			return nil, fmt.Errorf("read the manifest %q: it lacks apiVersion, kind or metadata.name", text)
		}
		found = append(found, o)
	}
	return found, nil
}

// documents cuts YAML at the lines that separate documents.
func documents(text string) []string {
	var all []string
	var current strings.Builder
	for line := range strings.Lines(text) {
		if strings.TrimRight(line, " \r\n") == "---" {
			all = append(all, current.String())
			current.Reset()
			continue
		}
		current.WriteString(line)
	}
	return append(all, current.String())
}

// String names the object for people.
func (o object) String() string {
	return strings.ToLower(o.Kind) + " " + strings.TrimPrefix(o.Metadata.Namespace+"/"+o.Metadata.Name, "/")
}

// path returns the path of the objects of its kind and namespace, by default the namespace "default".
func (o object) path(k kind) string {
	if !k.Namespaced {
		return base(o.APIVersion) + "/" + k.Name
	}
	return base(o.APIVersion) + "/namespaces/" + cmp.Or(o.Metadata.Namespace, "default") + "/" + k.Name
}

// Apply makes objects, or changes them to what the manifests say, one after the other; fields that an earlier Apply has set and this one does
// not mention are removed. Manifests are YAML documents, one object each. A status is set, too, as it is: its lists replace those
// that were there.
func (c *Cluster) Apply(ctx context.Context, manifests string) error {
	return c.each(ctx, manifests, "apply", func(o object, k kind) error {
		path := o.path(k) + "/" + o.Metadata.Name
		body, err := o.applied(k)
		if err != nil {
			return err
		}
		_, err = c.Do(ctx, Request{Method: http.MethodPatch, Path: path + "?fieldManager=kubetest&force=true", Body: body,
			Type: "application/apply-patch+yaml"})
		if err != nil || len(o.Status) == 0 || !k.status {
			return err
		}
		_, err = c.Do(ctx, Request{Method: http.MethodPatch, Path: path + "/status", Body: fmt.Appendf(nil, `{"status":%s}`, o.Status),
			Type: "application/merge-patch+json"})
		return err
	})
}

// applied returns what a server-side apply sends: all but a status of its own path. That one cannot be applied, since a Node may have two
// addresses of one type, which is the key by which server-side apply tells them apart.
func (o object) applied(k kind) ([]byte, error) {
	if len(o.Status) == 0 || !k.status {
		return o.json, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(o.json, &fields); err != nil {
		return nil, err
	}
	delete(fields, "status")
	return json.Marshal(fields)
}

// Create makes objects that do not exist yet, one after the other. It is faster than Apply, for many, and refuses what exists. A status is
// ignored by most kinds.
func (c *Cluster) Create(ctx context.Context, manifests string) error {
	return c.each(ctx, manifests, "create", func(o object, k kind) error {
		_, err := c.Do(ctx, Request{Method: http.MethodPost, Path: o.path(k), Body: o.json})
		return err
	})
}

// Delete removes the objects that the manifests name, at once: pods get no grace. One that does not exist is no error. A Namespace stays, in
// phase Terminating: it is the controller manager that empties it.
func (c *Cluster) Delete(ctx context.Context, manifests string) error {
	return c.each(ctx, manifests, "delete", func(o object, k kind) error {
		_, err := c.Do(ctx, Request{Method: http.MethodDelete, Path: o.path(k) + "/" + o.Metadata.Name + "?gracePeriodSeconds=0"})
		if IsNotFound(err) {
			return nil
		}
		return err
	})
}

func (c *Cluster) each(ctx context.Context, manifests, what string, f func(object, kind) error) error {
	all, err := objects(manifests)
	if err != nil {
		return fmt.Errorf("%s objects: %w", what, err)
	}
	for _, o := range all {
		k, err := c.kind(ctx, o.APIVersion, o.Kind)
		if err == nil {
			err = f(o, k)
		}
		if err != nil {
			return fmt.Errorf("%s %v: %w", what, o, err)
		}
	}
	return nil
}

// Node is what tests say about a node.
type Node struct {
	Name     string
	Addrs    []netip.Addr   // its internal addresses, the primary one first
	PodCIDRs []netip.Prefix // at most one a family
	Labels   map[string]string
}

// AddNode makes a Node, ready and without taints, or changes it to be like this.
func (c *Cluster) AddNode(ctx context.Context, n Node) error {
	type fields = map[string]any
	addresses := []fields{{"type": "Hostname", "address": n.Name}}
	for _, addr := range n.Addrs {
		addresses = append(addresses, fields{"type": "InternalIP", "address": addr})
	}
	spec := fields{}
	if len(n.PodCIDRs) > 0 {
		spec = fields{"podCIDR": n.PodCIDRs[0], "podCIDRs": n.PodCIDRs}
	}
	text, err := json.Marshal(fields{
		"apiVersion": "v1", "kind": "Node",
		"metadata": fields{"name": n.Name, "labels": n.Labels},
		"spec":     spec,
		"status":   fields{"addresses": addresses, "conditions": []fields{{"type": "Ready", "status": "True"}}},
	})
	if err != nil {
		return fmt.Errorf("add node %s: %w", n.Name, err)
	}
	if err := c.Apply(ctx, string(text)); err != nil {
		return fmt.Errorf("add node %s: %w", n.Name, err)
	}
	return nil
}
