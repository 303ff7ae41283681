package lab

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/twill-cni/twill/plugins/netconf"
)

// withLabels returns the conflist with the labels as args.cni.labels of our own plugin, as a runtime passes them (CNI conventions, "args in network
// config"). Without labels it is the list itself.
func withLabels(list json.RawMessage, labels map[string]string) (json.RawMessage, error) {
	if len(labels) == 0 {
		return list, nil
	}
	var doc map[string]any
	if err := json.Unmarshal(list, &doc); err != nil {
		return nil, fmt.Errorf("read the conflist: %w", err)
	}
	var pairs []map[string]string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		pairs = append(pairs, map[string]string{"key": key, "value": labels[key]})
	}
	plugins, _ := doc["plugins"].([]any)
	for _, p := range plugins {
		conf, ok := p.(map[string]any)
		if !ok || conf["type"] != netconf.Type {
			continue
		}
		args, _ := conf["args"].(map[string]any)
		args = maps.Clone(args)
		if args == nil {
			args = map[string]any{}
		}
		cni, _ := args["cni"].(map[string]any)
		cni = maps.Clone(cni)
		if cni == nil {
			cni = map[string]any{}
		}
		cni["labels"] = pairs
		args["cni"] = cni
		conf["args"] = args
	}
	return json.Marshal(doc)
}
