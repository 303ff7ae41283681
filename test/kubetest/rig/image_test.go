package rig

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/twill-cni/twill/test/kubetest"
)

// TestImages runs a container of an image that the test makes, and looks at what it has.
func TestImages(t *testing.T) {
	file := filepath.Join(t.TempDir(), "greeting")
	must(t, os.WriteFile(file, []byte("hello"), 0o640))
	const name = "example.org/greeting:1"
	image := kubetest.Image{Name: name, Also: []string{"example.org/also:1"}, Files: map[string]string{"/etc/greeting": file},
		Texts: map[string]string{"/etc/text": "text"}, Links: map[string]string{"/etc/link": "greeting"}, Dirs: []string{"/data"},
		Programs: []string{"getent"}, Busybox: true, Env: []string{"GREETING=hi"},
		Entrypoint: []string{"sh", "-c", `cat /etc/text /etc/link; stat -c " %a" /etc/greeting; echo $GREETING; getent hosts 192.0.2.9; id -u; touch /data/x && ls /data`}}
	archive := filepath.Join(t.TempDir(), "archive.tar")
	must(t, kubetest.WriteImages(archive, image))
	u := kubetest.StartUnderlay(t)
	for how, o := range map[string]kubetest.MachineOptions{
		"given as an archive": {Archives: []string{archive}},
		"given as an image":   {Images: []kubetest.Image{image}, Programs: linked(t)},
	} {
		t.Run(how, func(t *testing.T) {
			o.Name, o.Underlay = "a", u
			m, err := kubetest.LaunchMachine(t.Context(), o)
			must(t, err)
			t.Cleanup(func() { must(t, m.Close()) })
			for _, name := range append(image.Also, name) {
				out, err := m.Run(t.Context(), "ctr", "-n", "k8s.io", "run", "--rm", name, "one")
				if want := "texthello 640\nhi\n0\nx\n"; err != nil || out != want {
					t.Errorf("a container of %s printed %q, %v; want %q", name, out, err, want)
				}
			}
		})
	}
}

// linked returns a directory with the programs of machines, so that what is kept of images is the test's own.
func linked(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	programs := os.Getenv("TWILL_KUBE")
	if programs == "" {
		programs = "../../../.cache/kube"
	}
	programs, err := filepath.Abs(programs)
	must(t, err)
	files, err := filepath.Glob(filepath.Join(programs, "*"))
	must(t, err)
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && !info.IsDir() {
			must(t, os.Link(file, filepath.Join(dir, filepath.Base(file))))
		}
	}
	return dir
}
