package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

const tag = "registry.example:5000/net/twill:v1"

// built returns a directory with programs as `make image` leaves them for a platform.
func built(t *testing.T, platform string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"twilld", "twill", "twillctl", "twill-ipam"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name+" for "+platform), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// archived makes an archive for both platforms.
func archived(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "image.tar")
	err := run([]string{"-out", out, "-tag", tag, "-version", "v1", "linux/amd64=" + built(t, "amd64"), "linux/arm64=" + built(t, "arm64")})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// unpacked returns the index under the name, as somebody else's tools read it.
func unpacked(t *testing.T, archive string) (v1.ImageIndex, v1.Descriptor) {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(name, 0o700)
		} else {
			var data []byte
			if data, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(name, data, 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	all, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := all.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("%v: %+v", err, manifest)
	}
	index, err := all.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return index, manifest.Manifests[0]
}

func TestArchive(t *testing.T) {
	index, named := unpacked(t, archived(t))
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	if have := named.Annotations[refName]; have != tag {
		t.Errorf("the image is called %q, want %q", have, tag)
	}
	if have := named.Annotations[titleName]; have != "v1" {
		t.Errorf("its tag is %q, want v1", have)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, m := range manifest.Manifests {
		platforms = append(platforms, m.Platform.String())
		img, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.OS+"/"+config.Architecture != m.Platform.String() || !slices.Equal(config.Config.Entrypoint, []string{"/usr/bin/twilld"}) {
			data, _ := json.Marshal(config)
			t.Errorf("%s: %s", m.Platform, data)
		}
		want := []string{"usr", "usr/bin"}
		for _, name := range []string{"twill", "twill-ipam", "twillctl", "twilld"} {
			want = append(want, "usr/bin/"+name+" 0755 "+name+" for "+config.Architecture)
		}
		if have := listing(t, img); !slices.Equal(have, want) {
			t.Errorf("%s holds\n%s\nwant\n%s", m.Platform, strings.Join(have, "\n"), strings.Join(want, "\n"))
		}
	}
	if want := []string{"linux/amd64", "linux/arm64"}; !slices.Equal(platforms, want) {
		t.Errorf("have %v, want %v", platforms, want)
	}
}

// listing says what is in the image.
func listing(t *testing.T, img v1.Image) []string {
	t.Helper()
	content := mutate.Extract(img)
	defer content.Close()
	var files []string
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || !h.ModTime.Equal(timestamp) {
			t.Errorf("%s is of user %d and time %v", h.Name, h.Uid, h.ModTime)
		}
		if h.Typeflag == tar.TypeDir {
			files = append(files, h.Name)
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, fmt.Sprintf("%s %04o %s", h.Name, h.Mode, data))
	}
}

func TestSameProgramsSameArchive(t *testing.T) {
	first, err := os.ReadFile(archived(t))
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(archived(t))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("two archives of the same programs differ")
	}
}

func TestRefused(t *testing.T) {
	dir := built(t, "amd64")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no platform":     {nil, "PLATFORM=DIR"},
		"no directory":    {[]string{"linux/amd64"}, `"linux/amd64" is no PLATFORM=DIR`},
		"no programs":     {[]string{"linux/amd64=" + t.TempDir()}, "twilld: no such file"},
		"half a platform": {[]string{"linux/amd64=" + dir, "linux/arm64=/nowhere"}, "image for linux/arm64: open /nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "image.tar")
			err := run(append([]string{"-out", out, "-tag", tag}, c.args...))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("have %v, want %q", err, c.want)
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(out), "*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestTagOf(t *testing.T) {
	for name, want := range map[string]string{"twill": "latest", "a/twill:v1": "v1", "host:5000/twill": "latest", "host:5000/twill:v2": "v2"} {
		if have := tagOf(name); have != want {
			t.Errorf("%s: have %s, want %s", name, have, want)
		}
	}
}
