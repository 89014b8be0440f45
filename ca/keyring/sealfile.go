package keyring

import (
	"bytes"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/fault"
)

// sealPEMType is the PEM type of a seal key file.
const sealPEMType = "THRESHOLD SEAL KEY"

// maxSealFile bounds what is read of a seal key file, in bytes. A valid file has about 110.
const maxSealFile = 4 << 10

// CreateSealFile writes a new random seal key to a new file of mode 0600. The file is durable when it
// returns. It never overwrites a file: when one exists, it returns fault Conflict. A file that could not be
// written whole is removed again.
func CreateSealFile(path string) error {
	const op = "keyring.CreateSealFile"
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return sealFileExists.Wrap(err, op, fault.Args{"file": path})
	}
	if err != nil {
		return sealFileNotWritten.Wrap(err, op, fault.Args{"file": path})
	}
	if err := errors.Join(writeSealKey(file), file.Close()); err != nil {
		err = errors.Join(err, os.Remove(path))
		return sealFileNotWritten.Wrap(err, op, fault.Args{"file": path})
	}
	if err := durable.SyncDir(filepath.Dir(path)); err != nil {
		return sealFileNotWritten.Wrap(err, op, fault.Args{"file": path})
	}
	return nil
}

// writeSealKey writes a new random key to the file, as PEM, and syncs it.
func writeSealKey(f *os.File) error {
	key := make([]byte, chacha20poly1305.KeySize)
	defer clear(key)
	_, _ = rand.Read(key) // crypto/rand never fails since Go 1.24
	text := pem.EncodeToMemory(&pem.Block{Type: sealPEMType, Bytes: key})
	defer clear(text)
	if _, err := f.Write(text); err != nil {
		return err
	}
	return f.Sync()
}

// readSealFile returns the seal key in the file. The caller clears it after use. A file that cannot be opened
// is fault NotFound, one that others could read or have put there fault Denied, and one without a key fault
// Invalid.
func readSealFile(path string) ([]byte, error) {
	// O_NONBLOCK: a FIFO in its place must not block the start. O_NOFOLLOW: the file that is checked is the
	// file that is named.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, sealFileMissing.Wrap(err, opOpenSeal, fault.Args{"file": path})
	}
	defer file.Close()
	if err := checkSealFile(file); err != nil {
		return nil, sealFileUnsafe.Wrap(err, opOpenSeal, fault.Args{"file": path, "why": err.Error()})
	}
	text, err := io.ReadAll(io.LimitReader(file, maxSealFile))
	defer clear(text)
	if err != nil {
		return nil, sealFileUnreadable.Wrap(err, opOpenSeal, fault.Args{"file": path})
	}
	block, rest := pem.Decode(text)
	isKey := block != nil && block.Type == sealPEMType && len(block.Bytes) == chacha20poly1305.KeySize
	if !isKey || len(bytes.TrimSpace(rest)) != 0 {
		return nil, sealFileNoKey.New(opOpenSeal, fault.Args{"file": path})
	}
	return block.Bytes, nil
}

// checkSealFile returns an error unless the file is a regular file of this process's account, and nobody else
// has any right to it. Another account could else read the key or have put it there.
func checkSealFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return errors.New("it is not a regular file")
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("its mode %04o gives rights to others than its owner", info.Mode().Perm())
	case !ok || int(st.Uid) != os.Geteuid():
		return errors.New("it belongs to another account")
	}
	return nil
}
