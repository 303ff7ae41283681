package kubetest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// containerdRoot is what containerd keeps: images as they came and unpacked, and databases.
const containerdRoot = "/var/lib/containerd"

// storeLife is how long a store is kept that nobody uses. Each has hundreds of megabytes.
const storeLife = 24 * time.Hour

// imageStore returns a directory that a new machine's containerd can have as its own: it holds images. One that an earlier call made is used
// again, also by other programs, as long as the images' files are the same: to import 200 MB takes a containerd five seconds, and a site has
// several.
func imageStore(ctx context.Context, programs string, images []Image) (string, error) {
	key, err := imageKey(images)
	if err != nil {
		return "", err
	}
	store := filepath.Join(programs, "images", key)
	now := time.Now()
	if err := os.Chtimes(store, now, now); err == nil { // it exists; forget asks when it was used
		return store, nil
	}
	if err := os.MkdirAll(filepath.Dir(store), 0o755); err != nil {
		return "", err
	}
	made, err := os.MkdirTemp(filepath.Dir(store), "new")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(made)
	forget(filepath.Dir(store), now.Add(-storeLife))
	if err := makeImageStore(ctx, programs, made, images); err != nil {
		return "", err
	}
	err = os.Rename(filepath.Join(made, "root"), store)
	if errors.Is(err, os.ErrExist) { // somebody else was faster
		err = nil
	}
	return store, err
}

// forget removes stores that were last used before. Who fails to will fail to write, too.
func forget(dir string, before time.Time) {
	stores, _ := os.ReadDir(dir)
	for _, store := range stores {
		if info, err := store.Info(); err == nil && info.ModTime().Before(before) {
			_ = os.RemoveAll(filepath.Join(dir, store.Name()))
		}
	}
}

// imageKey tells images apart whose definitions, or files by size and time, differ.
func imageKey(images []Image) (string, error) {
	digest := sha256.New()
	out := json.NewEncoder(digest)
	for _, image := range images {
		image, err := image.resolved()
		if err != nil {
			return "", fmt.Errorf("image %s: %w", image.Name, err)
		}
		if err := out.Encode(image); err != nil {
			return "", err
		}
		for _, name := range slices.Sorted(maps.Keys(image.Files)) {
			info, err := os.Stat(image.Files[name])
			if err != nil {
				return "", fmt.Errorf("image %s: %w", image.Name, err)
			}
			_, _ = fmt.Fprintln(digest, name, info.Size(), info.ModTime().UnixNano(), info.Mode()) // a digest takes everything
		}
	}
	return fmt.Sprintf("%x", digest.Sum(nil)), nil
}

// makeImageStore imports the images on a machine that is made for that.
func makeImageStore(ctx context.Context, programs, dir string, images []Image) (err error) {
	archive := filepath.Join(dir, "images.tar")
	if err := WriteImages(archive, images...); err != nil {
		return err
	}
	u, err := NewUnderlay()
	if err != nil {
		return err
	}
	defer u.Close()
	m, err := LaunchMachine(ctx, MachineOptions{Name: "images", Underlay: u, Archives: []string{archive}, Programs: programs})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if err := m.Crash(); err != nil { // its databases bear that
		return err
	}
	return copyTree(filepath.Join(m.dir, "root", containerdRoot), filepath.Join(dir, "root"), linkFile)
}

// takeImages gives a machine that has not booted the content of a store. What is large is never written again, so the two may share it; the
// databases are copied.
func (m *Machine) takeImages(store string) error {
	return copyTree(store, filepath.Join(m.dir, "root", containerdRoot), func(from, to string, info os.FileInfo) error {
		if filepath.Ext(from) == ".db" {
			return copyFile(from, to, info)
		}
		return linkFile(from, to, info)
	})
}
