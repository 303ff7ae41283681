// Program image writes the container image of Twill as an OCI archive: a tar file with the image of each platform, which `ctr images import`,
// `skopeo copy oci-archive:` and the like take. It needs no container engine and no registry, because there is nothing
// to run: an image of static programs is a layer with these files. The same programs give the same archive, byte for byte.
//
//	image -out twill.tar -tag docker.io/twill-cni/twill:v1 -version v1 linux/amd64=DIR linux/arm64=DIR
//
// DIR holds the programs that were built for the platform. deploy/Dockerfile describes the same image.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	programsDir = "usr/bin"
	entrypoint  = "/usr/bin/twilld"

	// refName is the annotation that names an image in an archive, as containerd reads it; titleName is what others read (OCI image-spec,
	// annotations.md).
	refName   = "io.containerd.image.name"
	titleName = "org.opencontainers.image.ref.name"
)

// timestamp is the time that everything in the image bears, so that it does not depend on when it was made.
var timestamp = time.Unix(0, 0).UTC()

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	out := flags.String("out", "", "archive to write")
	name := flags.String("tag", "", "name and tag of the image, such as docker.io/twill-cni/twill:v1")
	version := flags.String("version", "", "version of the programs, for the image's labels")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *out == "" || *name == "" || flags.NArg() == 0 {
		return errors.New("give -out, -tag and at least one PLATFORM=DIR")
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arg := range flags.Args() {
		platform, dir, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q is no PLATFORM=DIR", arg)
		}
		p, err := v1.ParsePlatform(platform)
		if err != nil {
			return fmt.Errorf("%q: %w", arg, err)
		}
		img, err := image(*p, dir, *version)
		if err != nil {
			return fmt.Errorf("image for %s: %w", platform, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: p}})
	}
	return write(*out, *name, index)
}

// image returns the image of one platform: one layer with the programs of dir.
func image(p v1.Platform, dir, version string) (v1.Image, error) {
	content, err := programs(dir)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.Append(base, mutate.Addendum{Layer: layer, History: v1.History{
		Created: v1.Time{Time: timestamp}, CreatedBy: "COPY / /usr/bin/",
	}})
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Variant, file.Created = p.OS, p.Architecture, p.Variant, v1.Time{Time: timestamp}
	file.Config.Entrypoint = []string{entrypoint}
	file.Config.Env = []string{"PATH=/" + programsDir}
	file.Config.Labels = map[string]string{
		"org.opencontainers.image.title":   "twill",
		"org.opencontainers.image.version": version,
		"org.opencontainers.image.source":  "https://github.com/twill-cni/twill",
	}
	return mutate.ConfigFile(img, file)
}

// programs returns a layer with the files of dir as /usr/bin, in the order of their names.
func programs(dir string) ([]byte, error) {
	files, err := os.ReadDir(dir) // sorted
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, filepath.Base(entrypoint))); err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	to := tar.NewWriter(&buf)
	for _, parent := range []string{"usr/", programsDir + "/"} {
		if err := to.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: parent, Mode: 0o755, ModTime: timestamp}); err != nil {
			return nil, err
		}
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, err
		}
		if err := add(to, programsDir+"/"+f.Name(), 0o755, data); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), to.Close()
}

func add(to *tar.Writer, name string, mode int64, data []byte) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)), ModTime: timestamp}
	if err := to.WriteHeader(h); err != nil {
		return err
	}
	_, err := to.Write(data)
	return err
}

// write makes the archive of a layout with the index alone, under its name.
func write(out, name string, index v1.ImageIndex) (err error) {
	dir, err := os.MkdirTemp(filepath.Dir(out), ".image-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	oci, err := layout.Write(dir, mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	if err != nil {
		return err
	}
	if err := oci.AppendIndex(index, layout.WithAnnotations(map[string]string{refName: name, titleName: tagOf(name)})); err != nil {
		return err
	}
	temporary := dir + ".tar"
	if err := archive(temporary, dir); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return os.Rename(temporary, out)
}

// tagOf returns the tag of a name: a colon before the last slash is that of a port.
func tagOf(name string) string {
	last := name[strings.LastIndex(name, "/")+1:]
	if _, tag, ok := strings.Cut(last, ":"); ok {
		return tag
	}
	return "latest"
}

// archive writes the files of dir to a tar file, in the order of their names.
func archive(out, dir string) (err error) {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	to := tar.NewWriter(f)
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return to.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: filepath.ToSlash(rel) + "/", Mode: 0o755, ModTime: timestamp})
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return add(to, filepath.ToSlash(rel), 0o644, data)
	}); err != nil {
		return err
	}
	return to.Close()
}
