package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"time"
)

//go:embed assets
var files embed.FS

// handleAssets adds the files of the page, each with an ETag of its content.
func handleAssets(mux *http.ServeMux) error {
	return fs.WalkDir(files, "assets", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		tag := fmt.Sprintf(`"%x"`, sha256.Sum256(content))
		kind := mime.TypeByExtension(path.Ext(name))
		if path.Ext(name) == ".js" {
			kind = "text/javascript; charset=utf-8" // whatever the host's mime.types says
		}
		address := "/" + path.Base(name)
		if address == "/index.html" {
			address = "/{$}"
		}
		mux.HandleFunc("GET "+address, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("ETag", tag)
			w.Header().Set("Cache-Control", "no-cache") // ask whether it is still this one
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
		})
		return nil
	})
}
