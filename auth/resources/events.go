package resources

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
)

// eventKind are the audit log, as documents. They are named by their number.
type eventKind struct{ *Service }

func (k eventKind) document(e state.NumberedEvent) (authrpc.Resource, error) {
	return document("event", strconv.FormatUint(e.Number, 10), 0, e.Event, nil)
}

func (k eventKind) get(ctx context.Context, name string) (authrpc.Resource, error) {
	n, err := strconv.ParseUint(name, 10, 64)
	missing := fault.New(
		fault.NotFound,
		"resources.Get",
		fmt.Sprintf("there is no event %.40q", name),
		"events are named by number: tsh get events",
	)
	if err != nil || n == 0 {
		return authrpc.Resource{}, missing
	}
	got, err := k.cfg.Log.Read(ctx, n-1, 1)
	if err != nil {
		return authrpc.Resource{}, err
	}
	if len(got) == 0 {
		return authrpc.Resource{}, missing
	}
	return k.document(got[0])
}

func (k eventKind) list(ctx context.Context, p state.Page) (out []authrpc.Resource, next string, err error) {
	after := uint64(0)
	if p.After != "" {
		if after, err = strconv.ParseUint(p.After, 10, 64); err != nil {
			return nil, "", fault.Wrap(
				err,
				fault.Invalid,
				"resources.Get",
				"a page of events begins after a number",
				"leave out after, or use what the last page said",
			)
		}
	}
	got, err := k.cfg.Log.Read(ctx, after, p.Limit)
	size := 0
	for _, e := range got {
		r, err := k.document(e)
		if err != nil {
			return nil, "", err
		}
		if size += len(r.Spec); size > maxPageBytes && len(out) > 0 {
			break
		}
		out, after = append(out, r), e.Number
	}
	// A page may be short because events are large, so only the log itself knows whether there are more.
	more, merr := k.cfg.Log.Read(ctx, after, 1)
	if len(more) > 0 {
		next = strconv.FormatUint(after, 10)
	}
	return out, next, errors.Join(err, merr)
}

// maxPageBytes bounds a page of events, which machines write and may make large, under
// authrpc.MaxAnswerBytes.
const maxPageBytes = 2 << 20

func (k eventKind) apply(context.Context, caller, authrpc.Resource) (authrpc.ApplyResourceResponse, error) {
	return authrpc.ApplyResourceResponse{}, errAppendOnly()
}

func (k eventKind) remove(context.Context, caller, string) error { return errAppendOnly() }

func errAppendOnly() error {
	return fault.New(
		fault.Denied,
		"resources",
		"events can only be read: the audit log is never changed",
		"use: tsh get events",
	)
}
