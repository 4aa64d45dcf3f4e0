package store

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// formatName is the file that says how a store's directory is laid out.
const formatName = "FORMAT"

func formatText(instances int) string {
	return fmt.Sprintf("switchyard store 2\ninstances %d\n", instances)
}

// checkFormat refuses a directory of another format, and marks a new one. A
// store keeps the number of instances that it was made with.
func (s *Store) checkFormat() error {
	fs := s.opts.FS
	have, err := readFile(fs, s.path(formatName))
	if errors.Is(err, os.ErrNotExist) {
		names, err := fs.List(s.dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			if name != "LOCK" && name != formatName+".new" {
				return fmt.Errorf("%s is not a store: it has no %s, but %s", s.dir, formatName, name)
			}
		}
		return s.writeFormat()
	}
	if err != nil {
		return err
	}
	if want := formatText(s.opts.Instances); have != want {
		return fmt.Errorf("the store in %s has the format %q, not %q", s.dir, have, want)
	}
	return nil
}

func (s *Store) writeFormat() error {
	fs := s.opts.FS
	f, err := fs.Create(s.path(formatName+".new"), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if _, err := f.Write([]byte(formatText(s.opts.Instances))); err != nil {
		f.Close()
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := fs.Rename(s.path(formatName+".new"), s.path(formatName)); err != nil {
		return err
	}
	return syncDirs(fs, s.dir, fs.PathDir(s.dir))
}

// syncDirs makes names in directories durable.
func syncDirs(fs vfs.FS, dirs ...string) error {
	for _, dir := range dirs {
		d, err := fs.OpenDir(dir)
		if err != nil {
			return err
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			return err
		}
	}
	return nil
}

func readFile(fs vfs.FS, name string) (string, error) {
	f, err := fs.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	return string(b), err
}
