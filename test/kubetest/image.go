package kubetest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Image is a container image made of files of this machine. Names in it begin with a slash.
type Image struct {
	Name       string            // with the tag: registry.k8s.io/pause:3.10.2
	Also       []string          // more names of the same
	Files      map[string]string // by name in the image, where the content and mode come from
	Texts      map[string]string // by name in the image, the content; mode 0644
	Links      map[string]string // by name in the image, the target of a symbolic link
	Dirs       []string          // empty, for all to write
	Programs   []string          // found like a shell does, to be in /usr/bin of the image, with the libraries that they need
	Busybox    bool              // the shell and the programs of busybox-static, in /bin, where there is no other one of that name
	Entrypoint []string
	Args       []string
	Env        []string // NAME=VALUE
}

// WriteImages writes an archive with images, in Docker's format, which Machine.Import and MachineOptions take.
func WriteImages(file string, images ...Image) error {
	archive, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("write images: %w", err)
	}
	defer archive.Close()
	out := tar.NewWriter(archive)
	var index []manifestEntry
	for _, image := range images {
		entry, err := image.write(out)
		if err != nil {
			return fmt.Errorf("write image %s: %w", image.Name, err)
		}
		index = append(index, entry)
	}
	text, err := json.Marshal(index)
	if err == nil {
		err = addFile(out, "manifest.json", text, 0o644)
	}
	if err == nil {
		err = out.Close()
	}
	if err != nil {
		return fmt.Errorf("write images: %w", err)
	}
	return archive.Close()
}

// manifestEntry is one image of manifest.json, as "docker save" writes it.
type manifestEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (i Image) write(out *tar.Writer) (manifestEntry, error) {
	i, err := i.resolved()
	if err != nil {
		return manifestEntry{}, err
	}
	layer, err := i.layer()
	if err != nil {
		return manifestEntry{}, err
	}
	type fields = map[string]any
	digest := fmt.Sprintf("%x", sha256.Sum256(layer))
	config, err := json.Marshal(fields{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": fields{"Entrypoint": i.Entrypoint, "Cmd": i.Args, "Env": append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin:/"}, i.Env...)},
		"rootfs": fields{"type": "layers", "diff_ids": []string{"sha256:" + digest}},
	})
	if err != nil {
		return manifestEntry{}, err
	}
	entry := manifestEntry{Config: fmt.Sprintf("%x.json", sha256.Sum256(config)), RepoTags: append([]string{i.Name}, i.Also...), Layers: []string{digest + "/layer.tar"}}
	if err := addFile(out, entry.Config, config, 0o644); err != nil {
		return entry, err
	}
	return entry, addFile(out, entry.Layers[0], layer, 0o644)
}

// resolved returns the image with Programs and Busybox among Files and Links.
func (i Image) resolved() (Image, error) {
	i.Files, i.Links = maps.Clone(i.Files), maps.Clone(i.Links)
	if i.Files == nil {
		i.Files = map[string]string{}
	}
	if i.Links == nil {
		i.Links = map[string]string{}
	}
	for _, name := range i.Programs {
		if err := addProgram(i.Files, name); err != nil {
			return i, err
		}
	}
	if i.Busybox {
		if err := addBusybox(i.Files, i.Links); err != nil {
			return i, err
		}
	}
	i.Programs, i.Busybox = nil, false
	return i, nil
}

// layer returns the files of a resolved image as a tar archive. The same files make the same archive.
func (i Image) layer() ([]byte, error) {
	var layer bytes.Buffer
	out := tar.NewWriter(&layer)
	for _, dir := range append([]string{"/tmp"}, i.Dirs...) {
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir[1:] + "/", Mode: 0o1777}); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(i.Files)) {
		info, err := os.Stat(i.Files[name])
		if err != nil {
			return nil, err
		}
		text, err := os.ReadFile(i.Files[name])
		if err == nil {
			err = addFile(out, name[1:], text, int64(info.Mode().Perm()))
		}
		if err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(i.Texts)) {
		if err := addFile(out, name[1:], []byte(i.Texts[name]), 0o644); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(i.Links)) {
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name[1:], Linkname: i.Links[name], Mode: 0o777}); err != nil {
			return nil, err
		}
	}
	err := out.Close()
	return layer.Bytes(), err
}

func addFile(out *tar.Writer, name string, text []byte, mode int64) error {
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(text)), Mode: mode}); err != nil {
		return err
	}
	_, err := out.Write(text)
	return err
}

// addProgram adds a program and what ldd(1) says that it needs.
func addProgram(files map[string]string, name string) error {
	program, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	files["/usr/bin/"+filepath.Base(name)] = program
	needs, err := exec.Command("ldd", program).Output()
	if err != nil {
		return nil // ldd fails for a static program
	}
	for _, word := range strings.Fields(string(needs)) {
		if strings.HasPrefix(word, "/") {
			files[word] = word
		}
	}
	return nil
}

// addBusybox adds busybox and its programs' names. Whoever looks for a program in the image finds a real one, in /usr/bin, first.
func addBusybox(files, links map[string]string) error {
	const place = "/bin/busybox"
	program, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("%w (test/setup-node.sh installs it)", err)
	}
	files[place] = program
	names, err := exec.Command(program, "--list").Output()
	if err != nil {
		return fmt.Errorf("ask busybox for its programs: %w", err)
	}
	for _, name := range strings.Fields(string(names)) {
		_, real := files["/usr/bin/"+name]
		if place := "/bin/" + name; place != "/bin/busybox" && !real {
			links[place] = "busybox"
		}
	}
	return nil
}
