// Package faulttest makes faults for tests, which no package declares: the product makes each by a
// fault.Code.
package faulttest

import "github.com/threshold-access/threshold/internal/fault"

// New makes a fault without a code.
func New(kind fault.Kind, op, msg, remedy string) *fault.Error {
	return &fault.Error{Kind: kind, Op: op, Msg: msg, Remedy: remedy}
}

// Wrap makes a fault without a code that err has caused. It returns nil when err is nil.
func Wrap(err error, kind fault.Kind, op, msg, remedy string) error {
	if err == nil {
		return nil
	}
	return New(kind, op, msg, remedy).Because(err)
}
