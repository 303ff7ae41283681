package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	yaml "go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/twill-cni/twill/store"
)

// MaxFileSize is the size in bytes above which Parse refuses a file.
const MaxFileSize = 64 << 20

// MaxSize is the size in bytes above which an object is refused, in either direction; etcd takes no more than 1.5 MiB at once.
const MaxSize = 1 << 20

// Kinds of documents.
const (
	KindService       = "Service"
	KindEndpointSlice = "EndpointSlice"
	KindEndpoints     = "Endpoints"
	KindNamespace     = "Namespace"
	KindNetworkPolicy = "NetworkPolicy"

	KindClusterNetworkPolicy = "ClusterNetworkPolicy"

	kindList = "List"
)

// Document is one document of a file, defaulted and valid.
type Document struct {
	Kind string
	Name store.ObjectName // without a namespace where the kind is ClusterScoped
	// Service is the object of a document of kind Service; else nil.
	Service *corev1.Service
	// Slices is the object of kind EndpointSlice, or those that an object of kind Endpoints stands for: none when it has no addresses.
	Slices []*discoveryv1.EndpointSlice
	// NetworkPolicy, ClusterPolicy and Namespace are the objects of documents of these kinds; else nil.
	NetworkPolicy *networkingv1.NetworkPolicy
	ClusterPolicy *ClusterNetworkPolicy
	Namespace     *corev1.Namespace
}

// Parse reads all documents of a file. The errors of all of them are joined; with an error no document is returned, so that of a file with a
// mistake nothing is used. Empty documents are skipped.
func Parse(data []byte) ([]Document, error) {
	if len(data) > MaxFileSize {
		return nil, fmt.Errorf("%d bytes are more than the %d that are allowed", len(data), MaxFileSize)
	}
	if json.Valid(data) {
		// JSON is YAML but for tabs, which are white space in the one and forbidden in the other.
		data = bytes.ReplaceAll(data, []byte("\t"), []byte(" "))
	}
	var documents []Document
	var errs []error
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for n := 1; ; n++ {
		var root yaml.Node
		err := decoder.Decode(&root)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil { // the decoder cannot find the next document
			errs = append(errs, fmt.Errorf("document %d: %w", n, err))
			break
		}
		if len(root.Content) == 0 || root.Content[0].Tag == "!!null" {
			continue
		}
		found, err := parseDocument(root.Content[0])
		if err != nil {
			errs = append(errs, prefixed(fmt.Sprintf("document %d", n), err))
		}
		documents = append(documents, found...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return documents, nil
}

// prefixed puts where before each of the errors that err joins.
func prefixed(where string, err error) error {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return fmt.Errorf("%s, %w", where, err)
	}
	var errs []error
	for _, e := range joined.Unwrap() {
		errs = append(errs, prefixed(where, e))
	}
	return errors.Join(errs...)
}

// header says what a document is.
type header struct{ apiVersion, kind string }

func headerOf(n *yaml.Node) (header, error) {
	var h header
	if n.Kind != yaml.MappingNode {
		return h, fmt.Errorf("line %d: want an object with apiVersion and kind", n.Line)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		switch n.Content[i].Value {
		case "apiVersion":
			h.apiVersion = n.Content[i+1].Value
		case "kind":
			h.kind = n.Content[i+1].Value
		}
	}
	return h, nil
}

func parseDocument(n *yaml.Node) ([]Document, error) {
	h, err := headerOf(n)
	if err != nil {
		return nil, err
	}
	switch h {
	case header{"v1", KindService}:
		return one(parseService(n))
	case header{"discovery.k8s.io/v1", KindEndpointSlice}:
		return one(parseSlice(n))
	case header{"v1", KindEndpoints}:
		return one(parseEndpoints(n))
	case header{"networking.k8s.io/v1", KindNetworkPolicy}:
		return one(parseNetworkPolicy(n))
	case header{ClusterPolicyGroup + "/" + ClusterPolicyVersion, KindClusterNetworkPolicy}:
		return one(parseClusterPolicy(n))
	case header{"v1", KindNamespace}:
		return one(parseNamespace(n))
	case header{"v1", kindList}:
		return parseList(n)
	case header{}:
		return nil, fmt.Errorf("line %d: apiVersion and kind are missing", n.Line)
	}
	return nil, fmt.Errorf("line %d: apiVersion %q, kind %q: want Service, Endpoints or Namespace of v1, EndpointSlice of discovery.k8s.io/v1, "+
		"NetworkPolicy of networking.k8s.io/v1, or ClusterNetworkPolicy of %s/%s", n.Line, h.apiVersion, h.kind, ClusterPolicyGroup, ClusterPolicyVersion)
}

func one(d Document, err error) ([]Document, error) {
	if err != nil {
		return nil, err
	}
	return []Document{d}, nil
}

// parseList reads what "kubectl get -o yaml" prints.
func parseList(n *yaml.Node) ([]Document, error) {
	var documents []Document
	var errs []error
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != "items" {
			continue
		}
		for _, item := range n.Content[i+1].Content {
			if h, err := headerOf(item); err == nil && h.kind == kindList {
				errs = append(errs, fmt.Errorf("line %d: a List within a List", item.Line))
				continue
			}
			found, err := parseDocument(item)
			errs = append(errs, err)
			documents = append(documents, found...)
		}
	}
	return documents, errors.Join(errs...)
}

func parseService(n *yaml.Node) (Document, error) {
	svc := &corev1.Service{}
	s, err := decodeStrict(n, svc)
	if err != nil {
		return Document{}, err
	}
	DefaultService(svc)
	if err := s.located(ValidateService(svc)); err != nil {
		return Document{}, err
	}
	return Document{Kind: KindService, Name: nameOf(svc), Service: svc}, nil
}

func parseSlice(n *yaml.Node) (Document, error) {
	slice := &discoveryv1.EndpointSlice{}
	s, err := decodeStrict(n, slice)
	if err != nil {
		return Document{}, err
	}
	DefaultEndpointSlice(slice)
	if err := s.located(ValidateEndpointSlice(slice)); err != nil {
		return Document{}, err
	}
	return Document{Kind: KindEndpointSlice, Name: nameOf(slice), Slices: []*discoveryv1.EndpointSlice{slice}}, nil
}

func parseEndpoints(n *yaml.Node) (Document, error) {
	//lint:ignore SA1019 Endpoints are deprecated since 1.33, and still what many people have in their files
	endpoints := &corev1.Endpoints{}
	s, err := decodeStrict(n, endpoints)
	if err != nil {
		return Document{}, err
	}
	defaultMeta(&endpoints.ObjectMeta)
	if err := s.located(validateEndpoints(endpoints)); err != nil {
		return Document{}, err
	}
	return Document{Kind: KindEndpoints, Name: nameOf(endpoints), Slices: FromEndpoints(endpoints)}, nil
}

// nameOf returns the name of an object.
func nameOf(o interface {
	GetNamespace() string
	GetName() string
}) store.ObjectName {
	return store.ObjectName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// located turns what validation found into one error for each, with its line.
func (s *strict) located(list field.ErrorList) error {
	var errs []error
	for _, err := range list {
		errs = append(errs, fmt.Errorf("line %d: %w", s.line(err.Field), err))
	}
	return errors.Join(errs...)
}
