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

// eventKind shows the audit log as documents. The name of an event is its number.
type eventKind struct{ log Log }

func (k eventKind) document(e state.NumberedEvent) (authrpc.Resource, error) {
	return document("event", strconv.FormatUint(e.Number, 10), 0, e.Event, nil)
}

// get reads one event by its number.
func (k eventKind) get(ctx context.Context, name string) (authrpc.Resource, error) {
	n, err := strconv.ParseUint(name, 10, 64)
	missing := fault.New(fault.NotFound, "resources.Get", fmt.Sprintf("there is no event %.40q", name),
		"the name of an event is its number; list them: tsh get events")
	if err != nil || n == 0 {
		return authrpc.Resource{}, missing
	}
	got, err := k.log.Read(ctx, n-1, 1)
	if err != nil {
		return authrpc.Resource{}, err
	}
	if len(got) == 0 {
		return authrpc.Resource{}, missing
	}
	return k.document(got[0])
}

// maxPageBytes bounds a page of events, in bytes. Machines write events and may make them large, so a bound
// on their number alone would not keep the answer under authrpc.MaxAnswerBytes.
const maxPageBytes = 2 << 20

// list returns the events after p.After, at most p.Limit and maxPageBytes of them, but at least one.
func (k eventKind) list(ctx context.Context, p state.Page) (out []authrpc.Resource, next string, err error) {
	after := uint64(0)
	if p.After != "" {
		if after, err = strconv.ParseUint(p.After, 10, 64); err != nil {
			return nil, "", fault.Wrap(err, fault.Invalid, "resources.Get",
				"a page of events begins after a number", "leave out after, or use next of the last page")
		}
	}
	got, err := k.log.Read(ctx, after, p.Limit)
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
	// A page may be short because its events are large, so a short page does not mean the end of the log.
	more, moreErr := k.log.Read(ctx, after, 1)
	if len(more) > 0 {
		next = strconv.FormatUint(after, 10)
	}
	return out, next, errors.Join(err, moreErr)
}

func (k eventKind) apply(context.Context, caller, authrpc.Resource) (authrpc.ApplyResourceResponse, error) {
	return authrpc.ApplyResourceResponse{}, readOnlyFault()
}

func (k eventKind) remove(context.Context, caller, string) error { return readOnlyFault() }

// readOnlyFault is the error for every attempt to write.
func readOnlyFault() error {
	return fault.New(fault.Denied, "resources", "events can only be read: the audit log is never changed",
		"use: tsh get events")
}
