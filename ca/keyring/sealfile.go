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

	"github.com/threshold-access/threshold/internal/fault"
)

// sealPEMType is the PEM type of a seal key file.
const sealPEMType = "THRESHOLD SEAL KEY"

// maxSealFile bounds what is read of a seal key file; a good one has about 110 bytes.
const maxSealFile = 4 << 10

// CreateSealFile writes a new random seal key, mode 0600, durable when it returns. It never overwrites.
func CreateSealFile(path string) error {
	const op = "keyring.CreateSealFile"
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fault.Wrap(
			err,
			fault.Conflict,
			op,
			"the seal key file "+path+" exists already",
			"keep it: what it sealed opens with no other key",
		)
	}
	if err != nil {
		return fault.Wrap(
			err,
			fault.Internal,
			op,
			"the seal key file cannot be made",
			"check the folder of "+path,
		)
	}
	if err := errors.Join(writeSealKey(f), f.Close()); err != nil {
		return fault.Wrap(
			errors.Join(err, os.Remove(path)),
			fault.Internal,
			op,
			"the seal key file cannot be written",
			"check space and rights of "+path,
		)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fault.Wrap(
			err,
			fault.Internal,
			op,
			"the folder of the seal key file cannot be synced",
			"check the disk of "+path,
		)
	}
	return nil
}

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

// syncDir makes a new directory entry durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readSealFile reads the key. The caller overwrites it after use.
func readSealFile(path string) ([]byte, error) {
	const op = "keyring.OpenSeal"
	// O_NONBLOCK so that a FIFO in its place cannot hang the start; O_NOFOLLOW so that the file checked is
	// the file named.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fault.Wrap(
			err,
			fault.NotFound,
			op,
			"the seal key file "+path+" cannot be opened",
			"put the seal key there, as a plain file of this account",
		)
	}
	defer f.Close()
	if err := checkSealFile(f); err != nil {
		return nil, fault.Wrap(
			err,
			fault.Denied,
			op,
			"the seal key file "+path+" is not safe to use: "+err.Error(),
			"run: chown this account and chmod 600 "+path,
		)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSealFile))
	defer clear(text)
	if err != nil {
		return nil, fault.Wrap(
			err,
			fault.Internal,
			op,
			"the seal key file "+path+" cannot be read",
			"check the disk",
		)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != sealPEMType || len(block.Bytes) != chacha20poly1305.KeySize ||
		len(bytes.TrimSpace(rest)) != 0 {
		return nil, fault.New(
			fault.Invalid,
			op,
			"the file "+path+" is not a seal key",
			"restore the seal key from where it is kept",
		)
	}
	return block.Bytes, nil
}

// checkSealFile refuses what others could read, or could have planted.
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
		return fmt.Errorf("others than its owner may use it (mode %04o)", info.Mode().Perm())
	case !ok || int(st.Uid) != os.Geteuid():
		return errors.New("it belongs to another account")
	}
	return nil
}
