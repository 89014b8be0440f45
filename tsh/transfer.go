package tsh

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
)

// transfer copies between this machine and one node at a time.
type transfer struct {
	scpOptions
	app    *app
	ctx    context.Context // of the one command; its fields live no longer
	remote *sftp.Client
	meter  *meter
}

// cleanupTime is how long an interrupted transfer may tidy up on the node before the connection is cut.
const cleanupTime = 2 * time.Second

// closeAfter closes the connection some time after ctx ends, unless stopped before.
func closeAfter(ctx context.Context, client *ssh.Client) (stop func()) {
	ended := make(chan struct{})
	release := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(cleanupTime)
		defer timer.Stop()
		select {
		case <-timer.C:
			_ = client.Close()
		case <-ended:
		}
	})
	return func() { release(); close(ended) }
}

// tempName is what a file is called until it is whole. Long names are cut: a file system takes 255 bytes.
func tempName(base string) string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
	return "." + strings.ToValidUTF8(base[:min(len(base), 200)], "") + ".tsh-" + hex.EncodeToString(b[:])
}

func localFault(name string, err error) error {
	if err == nil {
		return nil
	}
	why := err
	var pe *fs.PathError
	if errors.As(err, &pe) {
		why = pe.Err
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.Wrap(
			err,
			fault.Exhausted,
			"",
			"this machine's disk is full: "+name+" is not written",
			"free some space, then copy again; what was there before is untouched",
		)
	case errors.Is(err, fs.ErrNotExist):
		return fault.Wrap(err, fault.NotFound, "", name+" is not here", "check the path")
	}
	return fault.Wrap(err, fault.Invalid, "", clean(name)+": "+why.Error(), "check the path and its mode")
}

// remoteFault words what the node's file service says. SFTP has no status for a full disk: servers say so in
// their message.
func (t *transfer) remoteFault(name string, err error) error {
	name = clean(name)
	var status *sftp.StatusError
	switch text := strings.ToLower(err.Error()); {
	case t.ctx.Err() != nil:
		return t.ctx.Err()
	case strings.Contains(text, "no space left"), strings.Contains(text, "quota exceeded"):
		return fault.Wrap(
			err,
			fault.Exhausted,
			"",
			"the node's disk is full: "+name+" is not written",
			"free some space there, then copy again; what was there before is untouched",
		)
	case errors.Is(err, fs.ErrNotExist):
		return fault.Wrap(
			err,
			fault.NotFound,
			"",
			name+" is not on the node",
			"check the path; without / in front it is under the home folder",
		)
	case errors.Is(err, fs.ErrPermission):
		return fault.Wrap(
			err,
			fault.Denied,
			"",
			"the node's account may not touch "+name,
			"use another path or login: LOGIN@NODE:PATH",
		)
	case errors.As(err, &status):
		return fault.Wrap(
			err,
			fault.Invalid,
			"",
			name+": "+clean(strings.TrimPrefix(status.Error(), "sftp: ")),
			"check the path on the node",
		)
	}
	return fault.Wrap(
		err,
		fault.Unavailable,
		"",
		"the transfer of "+name+" broke off: "+clean(err.Error()),
		"copy again; what was there before is untouched",
	)
}
