package deploy

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Helm runs helm on the chart of a checkout.
type Helm struct {
	Root    string // of the checkout
	Program string
}

// NewHelm finds helm where `make helm` puts it, or where TWILL_HELM says.
func NewHelm(root string) (Helm, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return Helm{}, err
	}
	h := Helm{Root: root, Program: cmp.Or(os.Getenv("TWILL_HELM"), filepath.Join(root, ".cache/tools/helm"))}
	if _, err := os.Stat(h.Program); err != nil {
		return Helm{}, fmt.Errorf("helm: %w; run `make helm`", err)
	}
	return h, nil
}

// Template renders the chart with values as --set takes them: key=value.
func (h Helm) Template(values ...string) (string, error) {
	args := []string{"template", "twill", h.chart()}
	for _, v := range values {
		args = append(args, "--set", v)
	}
	return h.run(args...)
}

// Lint checks the chart; what is no more than a recommendation is none.
func (h Helm) Lint() error {
	_, err := h.run("lint", "--strict", "--quiet", h.chart())
	return err
}

// Notes returns what helm says to who installs the chart into the cluster of a kubeconfig with values as --set takes them. Nothing is installed.
func (h Helm) Notes(kubeconfig string, values ...string) (string, error) {
	args := []string{"install", "twill", h.chart(), "--dry-run=server", "--kubeconfig", kubeconfig}
	for _, v := range values {
		args = append(args, "--set", v)
	}
	text, err := h.run(args...)
	_, notes, _ := strings.Cut(text, "\nNOTES:\n")
	return notes, err
}

func (h Helm) chart() string { return filepath.Join(h.Root, "deploy/chart/twill") }

// run returns what helm prints. The error is what helm says.
func (h Helm) run(args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.Command(h.Program, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	// No settings, repositories and clusters of whoever runs this.
	cmd.Env = []string{"HOME=/nonexistent", "HELM_NAMESPACE=default", "KUBECONFIG=/nonexistent"}
	if err := cmd.Run(); err != nil {
		return "", errors.New(strings.TrimSpace(cmp.Or(errs.String()+out.String(), err.Error())))
	}
	return out.String(), nil
}
