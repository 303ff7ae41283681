package hostfile

import (
	"encoding/json"
	"fmt"
	"os"
)

// Netconf returns the configuration of the daemon's network as a runtime gives it to the plugin: the plugin's part of the conflist that
// Announce has written, with the network's name and version. The error is fs.ErrNotExist before that.
func (h *Host) Netconf() ([]byte, error) {
	data, err := os.ReadFile(h.conflist())
	if err != nil {
		return nil, fmt.Errorf("read the network's configuration: %w", err)
	}
	conf, err := netconfOf(data)
	if err != nil {
		return nil, fmt.Errorf("read the network's configuration: %s: %w", h.conflist(), err)
	}
	return conf, nil
}

func netconfOf(conflist []byte) ([]byte, error) {
	var list struct {
		CNIVersion json.RawMessage              `json:"cniVersion"`
		Name       json.RawMessage              `json:"name"`
		Plugins    []map[string]json.RawMessage `json:"plugins"`
	}
	if err := json.Unmarshal(conflist, &list); err != nil {
		return nil, err
	}
	if len(list.Plugins) == 0 || list.Name == nil {
		return nil, fmt.Errorf("it names %d plugins and the network %s", len(list.Plugins), list.Name)
	}
	conf := list.Plugins[0]
	if conf == nil {
		return nil, fmt.Errorf("its first plugin is null")
	}
	conf["name"], conf["cniVersion"] = list.Name, list.CNIVersion
	return json.Marshal(conf)
}
