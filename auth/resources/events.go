package resources

import (
	"context"
	"errors"
	"strconv"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
)

// eventKind shows the audit log as documents. The name of an event is its number.
type eventKind struct{ log Log }

// document turns an audit event into a document. It has no revision, because events never change.
func (k eventKind) document(e state.NumberedEvent) (authrpc.Resource, error) {
	return document("event", strconv.FormatUint(e.Number, 10), 0, e.JSON, nil)
}

// get returns the event of that number, or fault NotFound.
func (k eventKind) get(ctx context.Context, name string) (authrpc.Resource, error) {
	missing := eventUnknown.New("resources.Get", fault.Args{"name": name})
	number, err := strconv.ParseUint(name, 10, 64)
	if err != nil || number == 0 {
		return authrpc.Resource{}, missing
	}
	after := number - 1
	got, err := k.log.Read(ctx, after, 1)
	if err != nil {
		return authrpc.Resource{}, err
	}
	if len(got) == 0 || got[0].Number != number { // a later one: the event was removed
		return authrpc.Resource{}, missing
	}
	return k.document(got[0])
}

// maxPageBytes bounds a page of events, in bytes. Machines write events and may make them large, so a bound
// on their number alone would not keep the answer under authrpc.MaxAnswerBytes.
const maxPageBytes = 2 << 20

// list returns the events after p.After: at most p.Limit of them and maxPageBytes, but at least one if there
// is one. next is the number of the last one, and "" if no event follows now. Events that could be read are
// returned also with an error.
func (k eventKind) list(ctx context.Context, p state.Page) (out []authrpc.Resource, next string, err error) {
	last := uint64(0) // the number of the last event before or in the page
	if p.After != "" {
		if last, err = strconv.ParseUint(p.After, 10, 64); err != nil {
			return nil, "", eventPageInvalid.Wrap(err, "resources.Get")
		}
	}
	got, readErr := k.log.Read(ctx, last, p.Limit)
	size := 0
	for _, e := range got {
		doc, err := k.document(e)
		if err != nil {
			return nil, "", err
		}
		if size += len(doc.Spec); size > maxPageBytes && len(out) > 0 {
			break
		}
		out, last = append(out, doc), e.Number
	}
	// A page may be short because its events are large, so a short page does not mean the end of the log.
	following, followingErr := k.log.Read(ctx, last, 1)
	if len(following) > 0 {
		next = strconv.FormatUint(last, 10)
	}
	return out, next, errors.Join(readErr, followingErr)
}

// apply refuses, with fault Denied.
func (k eventKind) apply(context.Context, caller, authrpc.Resource) (authrpc.ApplyResourceResponse, error) {
	return authrpc.ApplyResourceResponse{}, readOnlyFault()
}

// remove refuses, with fault Denied.
func (k eventKind) remove(context.Context, caller, string) error { return readOnlyFault() }

// readOnlyFault is the error for every attempt to change an event. Not even an administrator may: the audit
// log must show also what administrators did.
func readOnlyFault() error { return eventsReadOnly.New("resources") }
