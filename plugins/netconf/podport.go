package netconf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// PodPort is a port that the pod gives a name to, as a container of Kubernetes does in its containerPorts.
type PodPort struct {
	Name          string   `json:"name"`
	ContainerPort uint16   `json:"containerPort"`
	Protocol      Protocol `json:"protocol"`
}

func (p PodPort) String() string { return fmt.Sprintf("%s of %s", p.Name, p.Protocol) }

type podPortJSON struct {
	Name          string `json:"name"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
}

// What a record of an attachment has to hold at most: the number of ports, and the bytes of a name (RFC 6335, 5.1: that of a service).
const (
	maxPorts    = 256
	maxPortName = 15
)

// parsePodPorts reads args.cni.ports; null is none. A name may be given once for each protocol: policies and Services look a port up by both, as a
// Kubernetes pod answers whose containers share a name. A key that is unknown is an error, since it says something that is not going to happen
// ("hostPort" belongs into the port mappings).
func parsePodPorts(data json.RawMessage) ([]PodPort, error) {
	if len(data) == 0 {
		return nil, nil
	}
	var elements []json.RawMessage
	if err := json.Unmarshal(data, &elements); err != nil {
		return nil, errors.New(`args.cni.ports: want a list, such as [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]`)
	}
	if len(elements) > maxPorts {
		return nil, fmt.Errorf("args.cni.ports: %d ports are more than the %d that are allowed", len(elements), maxPorts)
	}
	var out []PodPort
	type key struct {
		name     string
		protocol Protocol
	}
	seen := map[key]int{}
	for i, element := range elements {
		p, err := parsePodPort(element)
		if err != nil {
			return nil, fmt.Errorf("args.cni.ports[%d]%w", i, err)
		}
		at := key{p.Name, p.Protocol}
		if other, twice := seen[at]; twice {
			return nil, fmt.Errorf("args.cni.ports[%d]: %s is given by ports[%d] already; want a name once for each protocol", i, p, other)
		}
		seen[at] = i
		out = append(out, p)
	}
	return out, nil
}

// parsePodPort returns errors that go on after the name of the element.
func parsePodPort(data json.RawMessage) (PodPort, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var in podPortJSON
	if err := dec.Decode(&in); err != nil {
		return PodPort{}, fmt.Errorf(`: want {"name": "http", "containerPort": 8080, "protocol": "TCP"} and nothing else: %w`, err)
	}
	if in.Name == "" {
		return PodPort{}, errors.New(".name: is missing; leave the port out if it has none")
	}
	if !isPortName(in.Name) {
		return PodPort{}, fmt.Errorf(`.name: %.40q is no name of a port; want at most %d of a-z, 0-9 and "-", a letter among them, "-" neither first, last nor twice in a row`, in.Name, maxPortName)
	}
	if in.ContainerPort < 1 || in.ContainerPort > 65535 {
		return PodPort{}, fmt.Errorf(".containerPort: %d is not between 1 and 65535", in.ContainerPort)
	}
	out := PodPort{Name: in.Name, ContainerPort: uint16(in.ContainerPort), Protocol: TCP}
	if in.Protocol != "" {
		if err := out.Protocol.UnmarshalText([]byte(in.Protocol)); err != nil {
			return PodPort{}, fmt.Errorf(".protocol: %w", err)
		}
	}
	return out, nil
}

// isPortName applies the rule for names of services (RFC 6335, 5.1), in lower case as Kubernetes has it (IANA_SVC_NAME).
func isPortName(name string) bool {
	if len(name) > maxPortName || strings.HasPrefix(name, "-") || strings.HasSuffix(name, "-") || strings.Contains(name, "--") {
		return false
	}
	letters := 0
	for _, c := range name {
		switch {
		case c >= 'a' && c <= 'z':
			letters++
		case c >= '0' && c <= '9', c == '-':
		default:
			return false
		}
	}
	return letters > 0
}
