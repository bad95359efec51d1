// out[i] = a[i] + b[i] for n integers of 32 bits, as a kernel for Vitis: the host sets the registers of
// s_axi_control and starts it (ap_ctrl_hs), and it reads and writes memory by m_axi_gmem.
//
// It takes turns: up to 16 beats of a, the same of b, the sums to out. That is simple, and not fast.

module vadd #(
    parameter WIDTH = 32  // bits of the memory port: 32, 64, ... 512
) (
    input  wire               ap_clk,
    input  wire               ap_rst_n,

    input  wire [5:0]         s_axi_control_awaddr,
    input  wire               s_axi_control_awvalid,
    output wire               s_axi_control_awready,
    input  wire [31:0]        s_axi_control_wdata,
    input  wire [3:0]         s_axi_control_wstrb,
    input  wire               s_axi_control_wvalid,
    output wire               s_axi_control_wready,
    output wire [1:0]         s_axi_control_bresp,
    output reg                s_axi_control_bvalid,
    input  wire               s_axi_control_bready,
    input  wire [5:0]         s_axi_control_araddr,
    input  wire               s_axi_control_arvalid,
    output wire               s_axi_control_arready,
    output reg  [31:0]        s_axi_control_rdata,
    output wire [1:0]         s_axi_control_rresp,
    output reg                s_axi_control_rvalid,
    input  wire               s_axi_control_rready,

    output wire [63:0]        m_axi_gmem_awaddr,
    output wire [7:0]         m_axi_gmem_awlen,
    output wire [2:0]         m_axi_gmem_awsize,
    output wire [1:0]         m_axi_gmem_awburst,
    output wire               m_axi_gmem_awvalid,
    input  wire               m_axi_gmem_awready,
    output wire [WIDTH-1:0]   m_axi_gmem_wdata,
    output wire [WIDTH/8-1:0] m_axi_gmem_wstrb,
    output wire               m_axi_gmem_wlast,
    output wire               m_axi_gmem_wvalid,
    input  wire               m_axi_gmem_wready,
    input  wire [1:0]         m_axi_gmem_bresp,
    input  wire               m_axi_gmem_bvalid,
    output wire               m_axi_gmem_bready,
    output wire [63:0]        m_axi_gmem_araddr,
    output wire [7:0]         m_axi_gmem_arlen,
    output wire [2:0]         m_axi_gmem_arsize,
    output wire [1:0]         m_axi_gmem_arburst,
    output wire               m_axi_gmem_arvalid,
    input  wire               m_axi_gmem_arready,
    input  wire [WIDTH-1:0]   m_axi_gmem_rdata,
    input  wire [1:0]         m_axi_gmem_rresp,
    input  wire               m_axi_gmem_rlast,
    input  wire               m_axi_gmem_rvalid,
    output wire               m_axi_gmem_rready
);

localparam LANES = WIDTH / 32;  // integers in a beat
localparam SHIFT = $clog2(LANES);

// What it does.

localparam IDLE = 0, ASK_A = 1, TAKE_A = 2, ASK_B = 3, TAKE_B = 4, ASK_OUT = 5, GIVE_OUT = 6, AGREED = 7;

reg  [2:0]  state;
reg         start, done, ready;    // bits 0, 1 and 3 of the first register
reg  [63:0] a, b, out;             // the registers of the arguments
reg  [31:0] n;
reg  [31:0] first;                 // the first integer of this turn
reg  [3:0]  beat;                  // of this turn
reg  [WIDTH-1:0] sums [0:15];      // of this turn; before b is taken, a

wire [31:0] left = n - first;
wire [31:0] beats_left = (left + LANES - 1) >> SHIFT;
wire [3:0]  last = beats_left > 16 ? 4'd15 : beats_left[3:0] - 4'd1;
wire [63:0] place = {30'b0, first, 2'b0};  // in bytes
wire [31:0] in_beat = left - ({28'b0, beat} << SHIFT);  // integers left from this beat on

// Buffers begin at multiples of 4096 bytes, and so no burst crosses one, as AXI asks for.
assign m_axi_gmem_araddr = (state == ASK_A ? a : b) + place;
assign m_axi_gmem_arlen = {4'b0, last};
assign m_axi_gmem_arsize = SHIFT[2:0] + 3'd2;
assign m_axi_gmem_arburst = 2'b01;
assign m_axi_gmem_arvalid = state == ASK_A || state == ASK_B;
assign m_axi_gmem_rready = state == TAKE_A || state == TAKE_B;
assign m_axi_gmem_awaddr = out + place;
assign m_axi_gmem_awlen = {4'b0, last};
assign m_axi_gmem_awsize = SHIFT[2:0] + 3'd2;
assign m_axi_gmem_awburst = 2'b01;
assign m_axi_gmem_awvalid = state == ASK_OUT;
assign m_axi_gmem_wdata = sums[beat];
assign m_axi_gmem_wlast = beat == last;
assign m_axi_gmem_wvalid = state == GIVE_OUT;
assign m_axi_gmem_bready = state == AGREED;

wire [WIDTH-1:0] sum;
genvar lane;
generate
    for (lane = 0; lane < LANES; lane = lane + 1) begin : lanes
        assign sum[32*lane +: 32] = sums[beat][32*lane +: 32] + m_axi_gmem_rdata[32*lane +: 32];
        assign m_axi_gmem_wstrb[4*lane +: 4] = {4{in_beat > lane}};
    end
endgenerate

wire taken = m_axi_gmem_rvalid && m_axi_gmem_rready;
wire given = m_axi_gmem_wvalid && m_axi_gmem_wready;
wire ended = (state == IDLE && start && n == 0)
    || (state == AGREED && m_axi_gmem_bvalid && beats_left <= 16);

always @(posedge ap_clk) begin
    if (taken)
        sums[beat] <= state == TAKE_A ? m_axi_gmem_rdata : sum;
    if (taken || given)
        beat <= beat == last ? 4'd0 : beat + 4'd1;
    case (state)
        IDLE: begin
            first <= 0;
            if (start && n != 0) state <= ASK_A;
        end
        ASK_A: if (m_axi_gmem_arready) state <= TAKE_A;
        TAKE_A: if (taken && beat == last) state <= ASK_B;
        ASK_B: if (m_axi_gmem_arready) state <= TAKE_B;
        TAKE_B: if (taken && beat == last) state <= ASK_OUT;
        ASK_OUT: if (m_axi_gmem_awready) state <= GIVE_OUT;
        GIVE_OUT: if (given && beat == last) state <= AGREED;
        AGREED: if (m_axi_gmem_bvalid) begin
            first <= first + 16 * LANES;
            state <= ended ? IDLE : ASK_A;
        end
    endcase
    if (!ap_rst_n) begin
        state <= IDLE;
        beat <= 0;
    end
end

// Its registers: 0x00 control, 0x10 a, 0x1c b, 0x28 out, 0x34 n.

wire writes = s_axi_control_awvalid && s_axi_control_wvalid && !s_axi_control_bvalid;
wire reads = s_axi_control_arvalid && !s_axi_control_rvalid;

assign s_axi_control_awready = writes;
assign s_axi_control_wready = writes;
assign s_axi_control_bresp = 2'b00;
assign s_axi_control_arready = reads;
assign s_axi_control_rresp = 2'b00;

always @(posedge ap_clk) begin
    if (s_axi_control_bready) s_axi_control_bvalid <= 0;
    if (s_axi_control_rready) s_axi_control_rvalid <= 0;
    if (reads) begin
        s_axi_control_rvalid <= 1;
        case (s_axi_control_araddr)
            6'h00: begin
                s_axi_control_rdata <= {28'b0, ready, state == IDLE && !start, done, start};
                done <= 0;  // it is told once
                ready <= 0;
            end
            6'h10: s_axi_control_rdata <= a[31:0];
            6'h14: s_axi_control_rdata <= a[63:32];
            6'h1c: s_axi_control_rdata <= b[31:0];
            6'h20: s_axi_control_rdata <= b[63:32];
            6'h28: s_axi_control_rdata <= out[31:0];
            6'h2c: s_axi_control_rdata <= out[63:32];
            6'h34: s_axi_control_rdata <= n;
            default: s_axi_control_rdata <= 0;
        endcase
    end
    if (writes) begin
        s_axi_control_bvalid <= 1;
        case (s_axi_control_awaddr)
            6'h00: if (s_axi_control_wdata[0]) start <= 1;
            6'h10: a[31:0] <= s_axi_control_wdata;
            6'h14: a[63:32] <= s_axi_control_wdata;
            6'h1c: b[31:0] <= s_axi_control_wdata;
            6'h20: b[63:32] <= s_axi_control_wdata;
            6'h28: out[31:0] <= s_axi_control_wdata;
            6'h2c: out[63:32] <= s_axi_control_wdata;
            6'h34: n <= s_axi_control_wdata;
            default: ;
        endcase
    end
    if (ended) begin
        start <= 0;
        done <= 1;
        ready <= 1;
    end
    if (!ap_rst_n) begin
        start <= 0;
        done <= 0;
        ready <= 0;
        s_axi_control_bvalid <= 0;
        s_axi_control_rvalid <= 0;
    end
end

endmodule
