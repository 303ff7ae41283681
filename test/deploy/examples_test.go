package deploy

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestExamples renders the chart with each file of values that pages of docs/ name.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob(deployDir + "/chart/twill/examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no examples: %v", err)
	}
	networks := map[string]string{"k3s": "10.42.0.0/16"}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			h := helm(t)
			text, err := h.run("template", "twill", h.chart(), "--values", file, "--set", "kubernetes.apiServers={192.0.2.10:6443}")
			if err != nil {
				t.Fatal(err)
			}
			o := parse(t, text)
			if conf := o.configs["twill"].Data["net-conf.json"]; !strings.Contains(conf, `"Network": "`+networks[name]+`"`) {
				t.Errorf("net-conf.json is %s, want the network %s", conf, networks[name])
			}
			if cfg := load(t, o, "twill", "twilld"); cfg.CNIConfDir != "/etc/cni/net.d" || cfg.Policy != "on" {
				t.Errorf("the network configuration goes to %s, policies are %s", cfg.CNIConfDir, cfg.Policy)
			}
		})
	}
}
