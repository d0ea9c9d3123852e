# What the core uses of the C++ headers, declared for Cython.

from libc.stdint cimport uint32_t, uint64_t
from libcpp cimport bool as bool_t

cdef extern from "<atomic>" namespace "std" nogil:
    cdef enum memory_order "std::memory_order":
        relaxed "std::memory_order_relaxed"
        acquire "std::memory_order_acquire"
        release "std::memory_order_release"

    cdef cppclass atomic_u32 "std::atomic<std::uint32_t>":
        uint32_t load(memory_order) noexcept
        void store(uint32_t, memory_order) noexcept

    cdef cppclass atomic_u64 "std::atomic<std::uint64_t>":
        uint64_t load(memory_order) noexcept
        void store(uint64_t, memory_order) noexcept

cdef extern from "forks.hpp" namespace "pipeline_executor" nogil:
    cdef struct AddressRange:
        unsigned char* start
        unsigned char* stop
        void* lease

    void sort_ranges(AddressRange* begin, AddressRange* end) noexcept

    cdef cppclass Forks:
        void begin() noexcept
        void end() noexcept
        uint64_t generation() noexcept
        void release_views(uint64_t number) noexcept
        bool_t may_be_alive(uint64_t first, uint64_t last) noexcept
        bool_t remove_ended() noexcept
        void forget_all() noexcept
        void inherit() noexcept
        void release_inherited() noexcept

cdef extern from "inherited.hpp" namespace "pipeline_executor" nogil:
    int memory_create(size_t size) noexcept
    void* memory_map(int fd, size_t size) noexcept
    bool_t memory_map_privately(int fd, uint64_t offset, void* at, size_t size) noexcept
    bool_t memory_map_shared(int fd, uint64_t offset, void* at, size_t size) noexcept
    void memory_copy_pages(void* at, size_t size) noexcept
    void memory_discard(void* at, size_t size) noexcept
    void memory_punch(int fd, uint64_t offset, uint64_t size) noexcept
    bool_t memory_copy_privately(void* at, size_t size) noexcept
    void memory_unmap(void* base, size_t size) noexcept
    void memory_close(int fd) noexcept

    cdef struct OffsetRange:
        uint64_t start
        uint64_t stop

    void chain_inherited(unsigned char* base, ReplicaEntry* replica, uint64_t offset) noexcept
    void unchain_inherited(unsigned char* base, ReplicaEntry* replica, uint64_t offset) noexcept
    uint64_t count_inherited(const Region&) noexcept
    uint64_t inherited_ranges(const Region&, OffsetRange* ranges, uint64_t max_ranges) noexcept
    void sort_ranges(OffsetRange* begin, OffsetRange* end) noexcept
    uint64_t physical_memory_bytes() noexcept
    int bell_create() noexcept
    void bell_ring(int bell) noexcept
    void bell_silence(int bell) noexcept

    int usable_processors() noexcept

    cdef cppclass Spin:
        Spin() noexcept

    cdef cppclass Message:
        uint32_t kind
        uint32_t in_block
        uint64_t size
        unsigned char* bytes
        uint64_t* words
        uint64_t block

    const uint64_t inline_capacity "pipeline_executor::Message::inline_capacity"

    cdef cppclass Block:
        uint64_t size
        uint32_t payload_offset
        atomic_u32 references
        unsigned char* payload() noexcept
        void add_reference() noexcept

    cdef cppclass Arena:
        uint64_t allocate(unsigned char* base, uint64_t size) noexcept
        void release(unsigned char* base, uint64_t offset) noexcept
        bool_t is_large(const Block*) noexcept

    uint64_t bytes_of "pipeline_executor::Arena::bytes_of"(const Block*) noexcept
    Block* block_at "pipeline_executor::Arena::at"(unsigned char* base, uint64_t offset) noexcept

    cdef cppclass ReplicaEntry:
        atomic_u32 state
        atomic_u32 pid
        atomic_u32 waiting
        atomic_u64 report_block
        atomic_u64 items_in
        atomic_u64 wait_input_ns
        atomic_u64 batch_first
        atomic_u64 batch_out
        atomic_u32 hand_phase
        Message hand
        atomic_u64 items_out
        atomic_u64 wait_room_ns

    cdef enum class HandPhase(uint32_t):
        empty
        taken
        decoded

    cdef enum class Status(int):
        ok
        end
        stopped
        aborted
        interrupted
        empty
        early
        no_memory

    cdef enum class Cause(uint32_t):
        none
        failed
        closed

    cdef cppclass Control:
        atomic_u64 abort_word
        uint32_t edges
        uint32_t replicas
        uint64_t region_size
        Arena arena

    Control* control_of(unsigned char* base) noexcept

    cdef cppclass Region:
        unsigned char* base
        int bell
        void* (*release_gil)() noexcept
        void (*acquire_gil)(void*) noexcept
        Control* control() noexcept
        Edge* edge(uint32_t index) noexcept
        ReplicaEntry* entry(uint32_t index) noexcept
        uint64_t head_bytes() noexcept
        bool_t aborted() noexcept
        bool_t abort(Cause cause, uint32_t entry) noexcept
        void arm_bell() noexcept

    cdef cppclass Cell:
        Message message

    cdef cppclass Edge:
        atomic_u64 head
        atomic_u64 tail
        Cell* cell(const Region&, uint64_t position) noexcept
        bool_t is_only_claimed(const Region&, uint64_t position) noexcept
        bool_t is_published(const Region&, uint64_t position) noexcept
        uint64_t order_offset
        atomic_u32 stopped
        Status stop_status(const Region&) noexcept
        Status reserve_now(const Region&, uint64_t&) noexcept
        Status reserve(const Region&, ReplicaEntry*, uint64_t&, Spin&) noexcept
        void unreserve() noexcept
        Status reserve_bytes_now(const Region&, const ReplicaEntry*, const Message&) noexcept
        Status reserve_bytes(const Region&, ReplicaEntry*, const Message&, Spin&) noexcept
        void leave_wait_queue(const Region&, ReplicaEntry*) noexcept
        Status publish(const Region&, ReplicaEntry*, const Message&) noexcept
        void finish_producing(const Region&) noexcept
        Status try_take(const Region&, ReplicaEntry*) noexcept
        Status take(const Region&, ReplicaEntry*, Spin&) noexcept
        void release(const Region&, ReplicaEntry*) noexcept
        Status finish_consuming(const Region&, uint32_t, bool_t) noexcept
        void stop(const Region&) noexcept

    cdef cppclass Order:
        Status try_take(const Region&, Edge&, ReplicaEntry*) noexcept
        Status take(const Region&, Edge&, Edge&, ReplicaEntry*, Spin&) noexcept
        uint64_t begin_output(ReplicaEntry*) noexcept
        Status try_send(const Region&, Edge&, ReplicaEntry*, const Message&, uint64_t) noexcept
        Status send(const Region&, Edge&, ReplicaEntry*, const Message&, uint64_t, Spin&) noexcept
        Status end_output(const Region&, Edge&, ReplicaEntry*) noexcept
        Status close_item(const Region&, Edge&, ReplicaEntry*) noexcept
        uint64_t slots() noexcept
        uint64_t newest_pending(const Region&, uint64_t index) noexcept
        uint64_t older_pending(const Region&, uint64_t block) noexcept
        Message* pending_message(const Region&, uint64_t block) noexcept

    Order& order_of "pipeline_executor::Order::of"(const Region&, const Edge&) noexcept

    cdef cppclass EdgePlan:
        uint64_t limit
        uint64_t max_bytes
        uint32_t producers
        uint32_t consumers
        uint32_t may_stop_early
        uint32_t rings_bell
        uint32_t ordered

    cdef struct Layout:
        uint64_t arena_offset

    Layout layout_of(const EdgePlan*, uint32_t, uint32_t) noexcept
    void setup_region(unsigned char*, uint64_t, const EdgePlan*, uint32_t, uint32_t) noexcept
