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

// importFile takes over the users of a file. With an embedded store the daemon
// must not run.
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
	users, err := openTransfer(ctx, c)
	if err != nil {
		return err
	}
	bar := newBar(os.Stderr, "import", size)
	result, err := users.take(ctx, in, bar.update)
	bar.finish()
	if err := errors.Join(err, users.Close()); err != nil {
		return fmt.Errorf("import %s: %w", file, err)
	}
	for _, bad := range result.errors {
		fmt.Fprintf(os.Stderr, "%s: %v; left out\n", file, bad)
	}
	if more := result.bad - len(result.errors); more > 0 {
		fmt.Fprintf(os.Stderr, "%s: %d more lines left out\n", file, more)
	}
	for _, scheme := range result.schemes {
		fmt.Fprintf(os.Stderr, "%s: %s\n", file, scheme)
	}
	fmt.Printf("%d users added, %d replaced, %d lines left out, %d users with a password hash that cannot be verified\n",
		result.added, result.replaced, result.bad, result.unverifiable)
	if result.bad > 0 {
		return fmt.Errorf("import %s: %d lines left out", file, result.bad)
	}
	return nil
}

// exportFile writes all users to a file, which is there when it is whole. With an
// embedded store the daemon must not run.
func exportFile(ctx context.Context, c *conf.Config, file string) error {
	users, err := openTransfer(ctx, c)
	if err != nil {
		return err
	}
	defer users.Close()
	bar := newBar(os.Stderr, "export", 0)
	n := users.count()
	bar.lines = int64(n)
	if file == standard {
		err = users.give(ctx, os.Stdout, bar.update)
		bar.finish()
		return err
	}
	err = writeFile(file, func(w io.Writer) error { return users.give(ctx, w, bar.update) })
	bar.finish()
	if err != nil {
		return fmt.Errorf("export %s: %w", file, err)
	}
	fmt.Printf("%d users written to %s\n", n, file)
	return nil
}

// openTransfer opens the store for this command: an embedded one for it alone.
func openTransfer(ctx context.Context, c *conf.Config) (transfer, error) {
	switch c.Tcpauthd.Store {
	case "module":
		return nil, errNoTransfer
	case "postgresql":
		db, err := openPostgres(ctx, c, zap.NewNop())
		if err != nil {
			return nil, err
		}
		if err := db.Ready(ctx); err != nil {
			return nil, errors.Join(err, db.Close())
		}
		return shared{db}, nil
	}
	db, err := openEmbedded(c, zap.NewNop())
	if errors.Is(err, nwauth.ErrLocked) {
		return nil, fmt.Errorf("%w; stop tcpauthd first", err)
	}
	if err != nil {
		return nil, err
	}
	return embedded{db}, nil
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
