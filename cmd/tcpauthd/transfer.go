package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"switchyard/conf"
	"switchyard/lookup/nwauth"
)

// standard stands for standard input or output in the place of a file.
const standard = "-"

// importFile takes over the users of a file. The daemon must not run.
func importFile(ctx context.Context, c *conf.Config, file string) error {
	in, size := os.Stdin, int64(0)
	if file != standard {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			size = info.Size()
		}
		in = f
	}
	users, err := openOffline(c)
	if err != nil {
		return err
	}
	bar := newBar(os.Stderr, "import", size)
	result, err := users.Import(ctx, in, bar.update)
	bar.finish()
	if err := errors.Join(err, users.Close()); err != nil {
		return fmt.Errorf("import %s: %w", file, err)
	}
	for _, bad := range result.Errors {
		fmt.Fprintf(os.Stderr, "%s: %v; left out\n", file, bad)
	}
	if more := result.Bad - len(result.Errors); more > 0 {
		fmt.Fprintf(os.Stderr, "%s: %d more lines left out\n", file, more)
	}
	for _, scheme := range result.Schemes {
		fmt.Fprintf(os.Stderr, "%s: %s\n", file, scheme)
	}
	fmt.Printf("%d users added, %d replaced, %d lines left out, %d users with a password hash that cannot be verified\n",
		result.Added, result.Replaced, result.Bad, result.Unverifiable)
	if result.Bad > 0 {
		return fmt.Errorf("import %s: %d lines left out", file, result.Bad)
	}
	return nil
}

// exportFile writes all users to a file, which is there when it is whole. The
// daemon must not run.
func exportFile(ctx context.Context, c *conf.Config, file string) error {
	users, err := openOffline(c)
	if err != nil {
		return err
	}
	defer users.Close()
	bar := newBar(os.Stderr, "export", 0)
	bar.lines = int64(users.Len())
	if file == standard {
		err = users.Export(ctx, os.Stdout, bar.update)
		bar.finish()
		return err
	}
	err = writeFile(file, func(w io.Writer) error { return users.Export(ctx, w, bar.update) })
	bar.finish()
	if err != nil {
		return fmt.Errorf("export %s: %w", file, err)
	}
	fmt.Printf("%d users written to %s\n", users.Len(), file)
	return nil
}

// openOffline opens the database for this command alone.
func openOffline(c *conf.Config) (*nwauth.DB, error) {
	users, err := nwauth.Open(c.Path(c.Tcpauthd.Data), databaseOptions(c, zap.NewNop()))
	if errors.Is(err, nwauth.ErrLocked) {
		return nil, fmt.Errorf("%w; stop tcpauthd first", err)
	}
	return users, err
}

// writeFile writes a file for its owner alone, durably and under its name only
// when it is whole.
func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".export-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
