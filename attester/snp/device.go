// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nacre-project/nacre/attest/snp"
)

// sevGuestDevice is the SEV-SNP guest driver's device, which kernels before configfs-tsm have (Linux 5.19 to 6.6).
const sevGuestDevice = "/dev/sev-guest"

// The driver's interface: include/uapi/linux/sev-guest.h. Integers are in the machine's order.
const (
	// snpGetExtReport is _IOWR('S', 2, struct snp_guest_request_ioctl).
	snpGetExtReport = 3<<30 | 32<<16 | 'S'<<8 | 2

	messageVersion = 1

	// certBufferSize is the most that the driver passes on, SEV_FW_BLOB_MAX_SIZE. It must be a multiple of a page.
	certBufferSize = 16 << 10

	// reportHeaderSize is what stands before the report in MSG_REPORT_RSP: u32 status, u32 size, 24 reserved bytes.
	reportHeaderSize = 32
)

// guestRequest is struct snp_guest_request_ioctl.
type guestRequest struct {
	MessageVersion uint8
	_              [7]byte
	RequestData    uint64 // address of an extReportRequestData
	ResponseData   uint64 // address of 4000 bytes
	ExitInfo2      uint64 // low half: firmware error; high half: hypervisor error
}

// extReportRequestData is struct snp_ext_report_req.
type extReportRequestData struct {
	UserData     [64]byte
	VMPL         uint32
	_            [28]byte
	CertsAddress uint64
	CertsSize    uint32
	_            [4]byte
}

// extReportRequest is one call of SNP_GET_EXT_REPORT with all the memory that it works on.
type extReportRequest struct {
	reportData [64]byte
	response   [4000]byte // MSG_REPORT_RSP
	certs      [certBufferSize]byte
}

// ioctlExtReport has the kernel fill in a request's response and certificates.
func ioctlExtReport(f *os.File, r *extReportRequest) error {
	var pinner runtime.Pinner // the kernel writes through addresses that the garbage collector does not see
	defer pinner.Unpin()
	data := &extReportRequestData{UserData: r.reportData, CertsSize: certBufferSize}
	pinner.Pin(data)
	pinner.Pin(r)
	data.CertsAddress = uint64(uintptr(unsafe.Pointer(&r.certs)))
	call := &guestRequest{
		MessageVersion: messageVersion,
		RequestData:    uint64(uintptr(unsafe.Pointer(data))),
		ResponseData:   uint64(uintptr(unsafe.Pointer(&r.response))),
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), snpGetExtReport, uintptr(unsafe.Pointer(call)))
	runtime.KeepAlive(f)
	if errno != 0 {
		return fmt.Errorf("SNP_GET_EXT_REPORT: %w (firmware error %#x, hypervisor error %#x)", errno,
			uint32(call.ExitInfo2), call.ExitInfo2>>32)
	}
	return nil
}

// device gets reports from /dev/sev-guest.
type device struct{ machine }

func (d device) present() bool {
	_, err := os.Stat(d.path(sevGuestDevice))
	return err == nil
}

func (d device) report(_ context.Context, reportData [64]byte) (report, certTable []byte, err error) {
	f, err := os.OpenFile(d.path(sevGuestDevice), os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r := &extReportRequest{reportData: reportData}
	if err := d.ioctl(f, r); err != nil {
		return nil, nil, err
	}
	status, size := binary.LittleEndian.Uint32(r.response[0:]), binary.LittleEndian.Uint32(r.response[4:])
	if status != 0 || size != snp.ReportSize {
		return nil, nil, fmt.Errorf("the firmware answered with status %#x and a report of %d bytes, wanted 0 and %d",
			status, size, snp.ReportSize)
	}
	return r.response[reportHeaderSize : reportHeaderSize+snp.ReportSize], r.certs[:], nil
}
