package lab

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/twill-cni/twill/plugins/netconf"
)

// withArgs returns the conflist with the pod's labels and named ports as args.cni.labels and args.cni.ports of our own plugin, as a runtime passes
// them (CNI conventions, "args in network config"). Without any it is the list itself.
func withArgs(list json.RawMessage, labels map[string]string, ports []netconf.PodPort) (json.RawMessage, error) {
	own := map[string]any{}
	if len(labels) > 0 {
		var pairs []map[string]string
		for _, key := range slices.Sorted(maps.Keys(labels)) {
			pairs = append(pairs, map[string]string{"key": key, "value": labels[key]})
		}
		own["labels"] = pairs
	}
	if len(ports) > 0 {
		own["ports"] = ports
	}
	if len(own) == 0 {
		return list, nil
	}
	var doc map[string]any
	if err := json.Unmarshal(list, &doc); err != nil {
		return nil, fmt.Errorf("read the conflist: %w", err)
	}
	plugins, _ := doc["plugins"].([]any)
	for _, p := range plugins {
		conf, ok := p.(map[string]any)
		if !ok || conf["type"] != netconf.Type {
			continue
		}
		args := within(conf, "args")
		maps.Copy(within(args, "cni"), own)
	}
	return json.Marshal(doc)
}

// within returns the object that another one has under a key, and makes it when there is none.
func within(object map[string]any, key string) map[string]any {
	inner, ok := object[key].(map[string]any)
	if !ok {
		inner = map[string]any{}
		object[key] = inner
	}
	return inner
}
