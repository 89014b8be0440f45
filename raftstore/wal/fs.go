package wal

import (
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"

	"github.com/threshold-access/threshold/internal/durable"
)

// diskFS is raft-wal's own file system with two more guarantees. Files are readable by their owner only. And
// the first Sync of a file opened by OpenWriter also makes its name durable. Without that, a file that was
// created and then reopened after kill -9 could be synced and still vanish with its directory entry.
type diskFS struct{ *fs.FS }

// NewFS returns the file system of this machine, with durable names and files of mode 0600.
func NewFS() types.VFS { return diskFS{fs.New()} }

func (d diskFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := d.FS.Create(dir, name, size)
	if err != nil {
		return nil, err
	}
	if err := OwnerOnly(filepath.Join(dir, name)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (d diskFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := d.FS.OpenWriter(dir, name)
	if err != nil {
		return nil, err
	}
	return &reopenedFile{WritableFile: f, dir: dir}, nil
}

// reopenedFile syncs the file's directory with its first Sync.
type reopenedFile struct {
	types.WritableFile
	dir string

	mu          sync.Mutex // guards nameDurable
	nameDurable bool       // the directory was synced since the file was opened
}

func (f *reopenedFile) Sync() error {
	if err := f.WritableFile.Sync(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.nameDurable {
		return nil
	}
	if err := durable.SyncDir(f.dir); err != nil {
		return err
	}
	f.nameDurable = true
	return nil
}

// OwnerOnly sets mode 0600 on files that the libraries create with wider permissions.
func OwnerOnly(paths ...string) error {
	for _, path := range paths {
		if err := os.Chmod(path, 0o600); err != nil {
			return err
		}
	}
	return nil
}
